"""Bodies that others trained on other pictures: torchvision's networks, their weights from a file.

The file is made once, by who starts the run, of weights that torchvision publishes:

    python -c "import torch; from safetensors.torch import save_file; \\
        save_file(torch.load('resnet18-f37072fd.pth', weights_only=True), 'resnet18.safetensors')"

and lies beside the study, whose `model` says name = "backbone", backbone = "resnet18",
weights = "resnet18.safetensors", frozen = "body". Nothing here reads a pickle.

Guarantees
    Batch normalisation is a fixed map here: its running means and variances are weights of the
    file, which no picture moves, in training or out of it. So a record's features depend on that
    record alone (the engine's check runs on these models as on others). Dropped layers of training
    (dropout, stochastic depth) are left out. The body is frozen: only the last layer is trained,
    clipped, noised and sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.params import Params, head_of
from common.study import Backbone

# Of the pictures of ImageNet, on which torchvision's weights were trained.
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation by statistics that stay what they are.

    They are parameters, not buffers, so that they travel and are checked as weights do.

    Args:
        like: The layer to stand in for.
    """

    def __init__(self, like: nn.BatchNorm2d) -> None:
        super().__init__()
        assert like.running_mean is not None  # torchvision's layers keep statistics
        assert like.running_var is not None
        self.eps = like.eps
        self.weight, self.bias = like.weight, like.bias
        self.running_mean = nn.Parameter(like.running_mean, requires_grad=False)
        self.running_var = nn.Parameter(like.running_var, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x, (records, channels, height, width), normalised."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class _AsTrained(nn.Module):
    """Pictures as the network's own training had them: three channels, one size, its constants."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return x, (records, 1 or 3, height, width) in [-1, 1], as (records, 3, size, size)."""
        x = x.expand(-1, 3, -1, -1)
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(
                x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True
            )
        mean, spread = (x.new_tensor(values)[:, None, None] for values in (_MEAN, _SPREAD))
        return ((x + 1) / 2 - mean) / spread


def backbone(name: Backbone, *, size: int, classes: int) -> nn.Module:
    """Return a torchvision network, its layers one after the other, with a last layer of its own.

    The layers have torchvision's names; `renamed` reads its files.

    Args:
        name: Which.
        size: Pixels a side to which pictures are brought first; five halvings leave one of 32.
        classes: Number of logits.
    """
    from torchvision import models  # takes a second

    net = models.get_model(name, weights=None, num_classes=classes)
    stages: list[tuple[str, nn.Module]] = [("as_trained", _AsTrained(size))]
    for stage in _STAGES[name]:
        own = _BETWEEN.get(stage)
        stages.append((stage, net.get_submodule(stage) if own is None else own()))
    found = nn.Sequential(OrderedDict(stages))
    _fix(found)
    return found


def _fix(module: nn.Module) -> None:
    """Take out of a network what differs between training and use."""
    for name, child in module.named_children():
        kind = type(child).__name__
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child))
        elif kind in ("Dropout", "StochasticDepth"):
            setattr(module, name, nn.Identity())
        else:
            _fix(child)
        if isinstance(child, nn.ReLU | nn.SiLU):
            child.inplace = False  # hooks need a layer's input as it was


# What torchvision's networks do between their layers, in calls that have no module.
_BETWEEN: Mapping[str, Callable[[], nn.Module]] = {
    "rectify": nn.ReLU,
    "pool": lambda: nn.AdaptiveAvgPool2d(1),
    "flatten": nn.Flatten,
}
_RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "pool")
_STAGES: Mapping[Backbone, tuple[str, ...]] = {
    "resnet18": (*_RESNET, "flatten", "fc"),
    "resnet34": (*_RESNET, "flatten", "fc"),
    "resnet50": (*_RESNET, "flatten", "fc"),
    "densenet121": ("features", "rectify", "pool", "flatten", "classifier"),
    "efficientnet_b0": ("features", "pool", "flatten", "classifier"),
}


def renamed(weights: Params, like: Params) -> Params:
    """Return a file's weights under the model's names, without what the model has not.

    torchvision's own last layer is of other classes, and is left out; so are its counters of
    batches. A file of this model's own names is returned as it is.

    Args:
        weights: As the file has them.
        like: The model's.
    """
    if any(name in like for name in weights):
        return weights
    prefix, head = next(iter(like)).partition(".")[0] + ".", head_of(like)
    found = {prefix + name: v for name, v in weights.items() if not name.endswith(_COUNTER)}
    return {name: v for name, v in found.items() if name not in head}


_COUNTER = "num_batches_tracked"


def architecture_of(weights: Params) -> Backbone | None:
    """Return which of the known networks a torchvision file is of, by names and shapes."""
    from torchvision import models

    for name in _STAGES:
        with torch.device("meta"):
            like = models.get_model(name, weights=None).state_dict()
        body = [*like][:-2]  # the last layer may be of other classes
        if {*weights} == {*like} and all(weights[k].shape == like[k].shape for k in body):
            return name
    return None
