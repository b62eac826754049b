"""The models: shapes, group norm only, seeds, weights files, devices, and privacy-compatibility."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common.cohort.parts import Part
from common.errors import StudyError
from common.models import (
    StandardisedConv2d,
    build,
    initial_params,
    load_params,
    params_of,
    pick_device,
    predict,
    shapes_of,
    trained,
)
from common.params import flatten
from common.privacy import engine
from common.privacy.engine import PrivateModel, check_compatible
from common.study import parse_study

torch.set_num_threads(1)

MODELS = ("logistic", "mlp", "conv4", "resnet18")  # backbones have tests of their own


def study(name, *, size=16, channels=1, classes=3, table=False, **model):
    cohort = {"label": {"classes": [str(c) for c in range(classes)]}}
    if table:
        cohort["features"] = [{"name": n, "range": [0, 1]} for n in "abcd"]
    else:
        cohort["image"] = {"size": size, "channels": channels}
    values = {
        "name": "t",
        "cohort": cohort,
        "model": {"name": name, **model},
        "learner": {"learning_rate": 0.1},
        "rounds": {"count": 1},
    }
    return parse_study(values, origin="t")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_maps_images_to_one_logit_a_class(name, channels):
    model = build(study(name, channels=channels, width=8))
    assert model(torch.zeros(2, channels, 16, 16)).shape == (2, 3)
    assert model.input_shape == (channels, 16, 16)


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_a_model_of_a_table_maps_rows_to_logits(name):
    assert build(study(name, table=True))(torch.zeros(5, 4)).shape == (5, 3)


def test_sizes_equal_hand_derived_ones():
    # logistic 4*3+3; mlp with 6 hidden (4*6+6) + (6*3+3);
    # conv4, width 8, 16 pixels: (9+1)*8 + 3*(72+1)*8 + 4 norms of 16 + one pixel left: 8*3+3.
    def count(s):
        return flatten(params_of(build(s))).numel()

    assert count(study("logistic", table=True)) == 15
    assert count(study("mlp", table=True, hidden=[6])) == 51
    assert count(study("conv4", width=8)) == 80 + 3 * 584 + 64 + 27


@pytest.mark.parametrize("name", ["conv4", "resnet18"])
def test_normalisation_is_by_group_and_keeps_no_statistics(name):
    # Broken once: batch norm mixes patients, and its running means leave the hospital unpriced.
    model = build(study(name))
    kinds = {type(m) for m in model.modules() if "Norm" in type(m).__name__}
    assert kinds == {nn.GroupNorm}
    assert list(model.buffers()) == []


@pytest.mark.parametrize("name", MODELS)
def test_a_record_is_scored_alike_in_any_company(name):
    model = build(study(name, width=8), seed=3)
    x = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([model(row[None]) for row in x])
    torch.testing.assert_close(model(x), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_alone_decides_the_weights_and_the_global_state_is_left_alone(name):
    spec = study(name, width=8)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = params_of(build(spec, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(10)
    assert same(params_of(build(spec, seed=1)), first)
    if name != "logistic":  # which starts at zero whatever the seed
        assert not same(params_of(build(spec, seed=2)), first)


def test_logistic_starts_unbiased_at_zero():
    assert flatten(params_of(build(study("logistic", table=True), seed=5))).abs().max() == 0


def test_initial_params_follow_the_runs_seed():
    spec = study("mlp", table=True)
    assert same(initial_params(spec, seed=1), initial_params(spec, seed=1))
    assert not same(initial_params(spec, seed=1), initial_params(spec, seed=2))


def test_params_are_copies():
    # Broken once: without a clone the "old" weights follow every step, and each delta is zero.
    model = build(study("mlp", table=True))
    params = params_of(model)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert not same(params, params_of(model))
    load_params(model, params)
    assert same(params, params_of(model))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_yields_clipped_sums(name):
    # Broken once: torchvision adds the residual in place, which Opacus's hooks forbid.
    spec = study(name, width=8)
    model = PrivateModel(build(spec))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 1, 16, 16, generator=generator)
    part = Part(x, torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, 2]), 3)
    params = initial_params(spec, seed=0)
    total = model.clipped_sum(params, part, clip=0.1)
    assert {k: v.shape for k, v in total.items()} == {k: v.shape for k, v in params.items()}
    assert 0 < flatten(total).norm() <= 3 * 0.1


@pytest.mark.parametrize("name", MODELS)
def test_the_private_gradient_is_the_models_own(name):
    # Without a clip the sum over patients of one record each is autograd's gradient of the sum.
    spec = study(name, width=8)
    params = initial_params(spec, seed=0)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 2])
    part = Part(x, y, torch.tensor([0, 1]), 2)
    found = PrivateModel(build(spec)).clipped_sum(params, part, clip=float("inf"))
    plain = build(spec)
    load_params(plain, params)
    nn.functional.cross_entropy(plain(x), y, reduction="sum").backward()
    wanted = {k: p.grad for k, p in plain.named_parameters()}
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("records", [0, 1, 4, 5, 9])
def test_predictions_are_probabilities_whatever_the_chunk(records):
    model = build(study("mlp", table=True), seed=1)
    x = torch.randn(records, 4, generator=torch.Generator().manual_seed(0))
    found = predict(model, x, chunk=4)
    assert found.shape == (records, 3)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    torch.testing.assert_close(found, model(x).detach().double().softmax(1))
    torch.testing.assert_close(found.sum(1), torch.ones(records, dtype=torch.float64))


def weights_study(tmp_path, name="w.safetensors"):
    return study("mlp", table=True, weights=name), tmp_path / name


def test_a_weights_file_is_where_a_run_starts(tmp_path):
    spec, path = weights_study(tmp_path)
    wanted = {k: torch.full_like(v, 0.5) for k, v in params_of(build(spec)).items()}
    save_file(wanted, path)
    assert same(initial_params(spec, seed=0, folder=tmp_path), wanted)


def test_a_site_that_knows_no_folder_needs_no_weights_file(tmp_path):
    spec, _ = weights_study(tmp_path)
    assert params_of(build(spec))


def test_a_missing_weights_file_says_which(tmp_path):
    spec, _ = weights_study(tmp_path)
    with pytest.raises(StudyError, match=r"model\.weights is '.*w\.safetensors', and there is no"):
        build(spec, folder=tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04]\x94."])
def test_a_weights_file_of_another_kind_is_refused(content, tmp_path):
    spec, path = weights_study(tmp_path)
    path.write_bytes(content)
    with pytest.raises(StudyError, match="not a safetensors file") as caught:
        build(spec, folder=tmp_path)
    assert "save_file" in caught.value.remedy


def nan_at_first(params):
    key = next(iter(params))
    return {**params, key: params[key] * float("nan")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {k: v[:1].clone() for k, v in p.items()}, "expected"),
        (lambda p: dict(list(p.items())[1:]), "names differ"),
        (lambda p: {**p, "more": torch.zeros(1)}, "names differ: .*more"),
        (lambda p: {k: v.double() for k, v in p.items()}, "float64"),
        (nan_at_first, "not finite"),
    ],
    ids=["shape", "one too few", "one too many", "type", "nan"],
)
def test_weights_of_another_model_are_refused(change, message, tmp_path):
    spec, path = weights_study(tmp_path)
    save_file(change(params_of(build(spec))), path)
    with pytest.raises(StudyError, match=f"does not fit the model: .*{message}"):
        build(spec, folder=tmp_path)


@pytest.mark.parametrize("name", ["conv4", "resnet18"])
def test_standardised_filters_have_mean_zero_and_a_public_size(name):
    """Faults it is for: a layer left out; a filter standardised over its outputs."""
    spec = study(name, width=8, standardise_weights=True)
    model = build(spec, seed=3)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {type(m) for m in layers} == {StandardisedConv2d}
    assert params_of(model).keys() == params_of(build(study(name, width=8))).keys()
    layer = layers[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, layer.in_channels, 16, 16, generator=generator)
    filters = layer.weight.detach()
    rows = filters.flatten(1)
    plain = (rows - rows.mean(1, keepdim=True)) / (
        rows.std(1, correction=0, keepdim=True) * math.sqrt(rows.shape[1])
    )
    expected = nn.functional.conv2d(
        x, plain.view_as(filters), layer.bias, layer.stride, layer.padding
    )
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        layer.weight.mul_(7).add_(3)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    check_compatible(model)


@pytest.mark.parametrize("model", [{"standardise_weights": True}, {"frozen": "body"}])
@pytest.mark.parametrize("large", [False, True])
def test_the_private_gradient_is_the_changed_models_own(model, large, monkeypatch):
    """Fault it is for: Opacus's rule of a plain convolution, under other weights than its own."""
    spec = study("conv4", width=8, **model)
    params = initial_params(spec, seed=0)
    x = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    part = Part(x, torch.tensor([0, 2, 1, 1, 0]), torch.tensor([0, 1, 2, 2, 3]), 4)
    if large:
        monkeypatch.setattr(engine, "_LARGE", 0)
    found = PrivateModel(build(spec)).clipped_sum(params, part, clip=0.1)
    plain, total = build(spec), 0
    load_params(plain, params)
    for patient in range(4):
        own = part.patient == patient
        plain.zero_grad()
        nn.functional.cross_entropy(plain(x[own]), part.y[own]).backward()
        g = torch.cat([p.grad.flatten() for p in plain.parameters() if p.requires_grad])
        total = total + g * min(1.0, 0.1 / g.norm().item())
    torch.testing.assert_close(flatten(found), total, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "conv4", "resnet18"])
def test_a_frozen_body_leaves_the_last_layer_to_be_trained(name):
    spec = study(name, width=8, frozen="body")
    model = build(spec)
    head = {"mlp": "body.3", "conv4": "body.17", "resnet18": "body.fc"}[name]
    expected = [f"{head}.weight", f"{head}.bias"]
    assert list(PrivateModel(model).trained) == expected
    assert list(trained(spec, shapes_of(spec))) == expected
    assert params_of(model).keys() == params_of(build(study(name, width=8))).keys()
    whole = study(name, width=8)
    assert trained(whole, shapes_of(whole)).keys() == params_of(model).keys()


def test_a_frozen_step_looks_at_the_body_it_was_given():
    """Fault it is for: gradients of the head under the module's own body, not the shared one."""
    spec = study("mlp", frozen="body")
    model, params = PrivateModel(build(spec, seed=1)), initial_params(spec, seed=2)
    x = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    part = Part(x, torch.tensor([0, 1, 2]), torch.arange(3), 3)
    direction = {k: torch.ones_like(params[k]) for k in model.trained}
    other = PrivateModel(build(spec, seed=2))
    for ask in (
        lambda m: m.clipped_products(params, part, direction=direction, clip=1.0),
        lambda m: m.clipped_sum(params, part, clip=1.0),
    ):
        assert same(ask(model), ask(other))


def test_a_frozen_body_may_come_without_a_head(tmp_path):
    spec = study("mlp", table=True, weights="w.safetensors", frozen="body")
    other = params_of(build(spec, seed=9))
    body = {k: v for k, v in other.items() if k not in trained(spec, other)}
    save_file(body, tmp_path / "w.safetensors")
    found = initial_params(spec, seed=1, folder=tmp_path)
    own = initial_params(spec, seed=1)
    assert all(torch.equal(found[k], body[k]) for k in body)
    assert all(torch.equal(found[k], own[k]) for k in trained(spec, own))
    half = {k: v for k, v in other.items() if not k.endswith("3.bias")}
    save_file(half, tmp_path / "w.safetensors")
    with pytest.raises(StudyError, match="does not fit the model"):
        initial_params(spec, seed=1, folder=tmp_path)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"name": "mlp", "standardise_weights": True}, "has no convolutions"),
        ({"name": "logistic", "frozen": "body"}, "a head without a body"),
        ({"name": "mlp", "hidden": [], "frozen": "body"}, "a head without a body"),
        ({"name": "mlp", "frozen": "head"}, "model.frozen is 'head'"),
        ({"name": "conv4", "standardise_weights": 1}, "model.standardise_weights is 1"),
    ],
)
def test_a_change_of_what_a_model_lacks_is_refused(model, words):
    with pytest.raises(StudyError, match=words):
        study(**model)


def test_conv4_refuses_images_that_four_poolings_use_up():
    with pytest.raises(StudyError, match="'conv4' but images are 15x15") as caught:
        build(study("conv4", size=15))
    assert "cohort.image.size" in caught.value.remedy


@pytest.mark.parametrize("name", ["conv4", "resnet18"])
def test_a_model_of_images_refuses_a_table(name):
    with pytest.raises(StudyError, match=f"'{name}', which needs images") as caught:
        build(study(name, table=True))
    assert "logistic" in caught.value.remedy


@pytest.mark.parametrize("name", ["conv4", "resnet18"])
def test_a_model_of_pictures_refuses_what_maps_make_of_them(name):
    """Fault it is for: "the cohort is a table", which it is not."""
    values = study(name).model_dump(mode="json")
    values["cohort"]["image"]["maps"] = [{"kind": "pixels", "size": 4}]
    with pytest.raises(StudyError, match=r"maps makes a table of 16 numbers") as caught:
        build(parse_study(values, origin="t"))
    assert "drop cohort.image.maps" in caught.value.remedy


def test_auto_is_a_device_of_this_machine():
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device("auto").type == kind
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:64", "gpu", "", "meta", "mps"])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(StudyError, match=f"device is '{name}'") as caught:
        pick_device(name)
    assert "'auto'" in caught.value.remedy


@pytest.mark.parametrize(("name", "there"), [("cuda", True), ("cuda:1", True), ("cuda:2", False)])
def test_the_number_of_devices_decides(name, there, monkeypatch):
    # Broken once: `<=` in place of `<` lets one device too many through.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if there:
        assert pick_device(name) == torch.device(name)
    else:
        with pytest.raises(StudyError, match="2 CUDA devices"):
            pick_device(name)


def test_a_frozen_model_is_run_on_no_more_records_at_once_than_the_whole(monkeypatch):
    """Fault it is for: pieces cut by the head's size alone: the body's outputs fill memory."""
    most = []
    for frozen in (None, "body"):
        spec = study("conv4", width=8, **({"frozen": frozen} if frozen else {}))
        module, params = build(spec), initial_params(spec, seed=0)
        monkeypatch.setattr(engine, "_CHUNK_VALUES", 5 * flatten(params).numel())
        sizes = []
        module.register_forward_hook(lambda m, inputs, output, s=sizes: s.append(len(output)))
        part = Part(torch.zeros(20, 1, 16, 16), torch.zeros(20).long(), torch.arange(20), 20)
        PrivateModel(module).clipped_sum(params, part, clip=1.0)
        most.append(max(sizes))
    assert most == [5, 5]
