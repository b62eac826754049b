"""Bodies of torchvision: their features are torchvision's own, in training and out of it."""

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from common.cohort.parts import Part
from common.errors import StudyError
from common.models import (
    build,
    features,
    initial_params,
    load_params,
    params_of,
    shapes_of,
    trained,
)
from common.params import flatten, head_of
from common.privacy.engine import PrivateModel, check_compatible
from common.study import parse_study
from common.transfer.backbone import architecture_of
from common.transfer.fine_tuning import blocks

torch.set_num_threads(1)


def study(name="resnet18", *, channels=1, size=32, **model):
    values = {
        "name": "t",
        "cohort": {
            "label": {"classes": ["a", "b", "c"]},
            "image": {"size": size, "channels": channels},
        },
        "model": {"name": "backbone", "backbone": name, "backbone_size": 32, "frozen": "body",
                  "weights": "net.safetensors", **model},
        "learner": {"learning_rate": 0.1},
        "rounds": {"count": 1},
    }  # fmt: skip
    return parse_study(values, origin="t")


def network(name="resnet18", classes=10):
    """A torchvision network with statistics that a batch norm in use would show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.get_model(name, weights=None, num_classes=classes)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return net.eval()


def seen_by_torchvision(net, x):
    """Grey as three channels, ImageNet's constants, and what torchvision's last layer is given."""
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    spread = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    seen = []
    last = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1]
    last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(((torch.cat([x] * (3 // x.shape[1]), dim=1) + 1) / 2 - mean) / spread)
    return seen[0]


@pytest.fixture
def folder(tmp_path):
    save_file(network().state_dict(), tmp_path / "net.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", 1),
        pytest.param("resnet18", 3, marks=pytest.mark.slow),
        *(
            pytest.param(name, 1, marks=pytest.mark.slow)
            for name in ("resnet34", "resnet50", "densenet121", "efficientnet_b0")
        ),
    ],
)
def test_features_are_torchvisions_own(name, channels, tmp_path):
    """Faults it is for: batch statistics in training; another order or scale of the channels."""
    net = network(name)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    spec = study(name, channels=channels)
    model = build(spec, folder=tmp_path)
    x = torch.rand(2, channels, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = seen_by_torchvision(net, x).detach()
    torch.testing.assert_close(features(model, x), expected, rtol=1e-3, atol=1e-4)
    model.train()
    torch.testing.assert_close(model.features(x).detach(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(params_of(model), params_of(build(spec, folder=tmp_path)))
    assert architecture_of(net.state_dict()) == name


@pytest.mark.slow
def test_pictures_of_another_size_are_brought_to_the_networks(folder):
    small, same = study(size=32), study(size=64)
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    resized = torch.nn.functional.interpolate(x, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(
        features(build(same, folder=folder), x), features(build(small, folder=folder), resized)
    )


@pytest.mark.slow
def test_it_travels_whole_and_its_last_layer_alone_is_trained(folder):
    spec = study()
    params = initial_params(spec, seed=1, folder=folder)
    names = [*params]
    assert any(name.endswith("running_var") for name in names)
    assert list(trained(spec, shapes_of(spec))) == ["body.fc.weight", "body.fc.bias"]
    assert params["body.fc.weight"].shape == (3, 512)
    at_a_site = build(spec)  # which has no file
    load_params(at_a_site, params)
    x = torch.zeros(1, 1, 32, 32)
    torch.testing.assert_close(features(at_a_site, x), features(build(spec, folder=folder), x))


def test_the_private_step_is_the_last_layers_gradient_alone(folder):
    spec = study()
    model = build(spec, folder=folder)
    check_compatible(model)
    params = params_of(model)
    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    part = Part(x, torch.tensor([0, 2, 1]), torch.arange(3), 3)
    found = PrivateModel(model).clipped_sum(params, part, clip=0.05)
    assert found.keys() == head_of(params)
    places = features(build(spec, folder=folder), x)
    outputs = build(spec, folder=folder).head(places).softmax(1).detach()
    slopes = outputs - torch.nn.functional.one_hot(part.y, 3)
    total = torch.zeros(3, 513)
    for slope, place in zip(slopes, places, strict=True):
        g = torch.outer(slope, torch.cat([place, torch.ones(1)]))
        total += g * min(1.0, 0.05 / g.norm().item())
    expected = torch.cat([total[:, :512].flatten(), total[:, 512]])
    torch.testing.assert_close(flatten(found), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_blocks_hold_no_statistics(folder):
    model = build(study(), folder=folder)
    names = {id(p): n for n, p in model.named_parameters()}
    found = [names[id(p)] for group in blocks(model) for p in group]
    assert len(blocks(model)) == 10
    assert not any("running" in name for name in found)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["resnet34", "resnet50"])
def test_a_file_of_another_architecture_says_of_which(other, tmp_path):
    state = models.get_model(other, weights=None).state_dict()
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(StudyError, match=f"is of a {other}, and model.backbone is 'resnet18'"):
        build(study(), folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda s: {**s, "conv1.weight": torch.zeros(64, 1, 7, 7)},  # of one channel
        lambda s: {k: v for k, v in s.items() if k != "layer3.0.bn1.running_mean"},
        lambda s: {"something": torch.zeros(1)},
    ],
    ids=["depth", "missing", "unknown"],
)
def test_a_file_that_is_no_such_network_is_refused(change, tmp_path):
    save_file(change(network().state_dict()), tmp_path / "net.safetensors")
    with pytest.raises(StudyError, match=r"model\.weights is .* another network") as caught:
        build(study(), folder=tmp_path)
    assert "as torchvision publishes them" in caught.value.remedy


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"backbone": None}, "backbone is not given"),
        ({"weights": None}, "weights is not given"),
        ({"frozen": None}, "frozen is not given"),
        ({"backbone": "vgg11"}, "model.backbone is 'vgg11'"),
        ({"backbone_size": 16}, "model.backbone_size is 16"),
        ({"name": "conv4"}, "leave it out"),
    ],
)
def test_a_backbone_half_said_is_refused(model, words):
    values = study().model_dump(mode="json")
    with pytest.raises(StudyError, match=words):
        parse_study({**values, "model": {**values["model"], **model}}, origin="t")


def test_a_table_has_no_pictures_for_it():
    values = study().model_dump(mode="json")
    values["cohort"] |= {"image": None, "features": [{"name": "x", "range": [0, 1]}]}
    with pytest.raises(StudyError, match="needs images"):
        build(parse_study(values, origin="t"))
