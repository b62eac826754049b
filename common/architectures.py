"""The layers of the models a study may name: none mixes the records of a batch.

Normalisation is by group (Wu and He 2018), never by batch.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from common.errors import StudyError
from common.study import ModelSpec

Shape = tuple[int, ...]


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose filters are taken with mean 0 and a variance of 1 / fan-in.

    Weight standardisation (Qiao et al. 2019; scaled as in Brock, De and Smith 2021). It looks at
    weights alone, never at inputs, so it mixes no records, and a gradient of the weights is the
    true one, through the standardisation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x, as nn.Conv2d."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        scale = torch.rsqrt((variance * self.weight[0].numel()).clamp(min=_FLAT))
        return cast(Tensor, self._conv_forward(x, (self.weight - mean) * scale, self.bias))


_FLAT = 1e-4  # of variance times fan-in: below it a filter has no shape to be scaled up


def _logistic(spec: ModelSpec, shape: Shape, classes: int) -> nn.Module:
    layer = nn.Linear(_flat(shape), classes)
    nn.init.zeros_(layer.weight)  # convex: every start ends at the same place, this one unbiased
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def _mlp(spec: ModelSpec, shape: Shape, classes: int) -> nn.Module:
    widths = [_flat(shape), *spec.hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def _conv4(spec: ModelSpec, shape: Shape, classes: int) -> nn.Module:
    """Four blocks of convolution, group norm, ReLU and pooling (after Vinyals et al. 2016)."""
    channels, height, width = _image(spec, shape)
    if min(height, width) < 16:
        raise StudyError(
            f"model.name is 'conv4' but images are {height}x{width}: four poolings need 16 pixels",
            remedy="use larger images (cohort.image.size) or model.name = 'logistic' or 'mlp'",
        )
    blocks: list[nn.Module] = []
    for before in (channels, spec.width, spec.width, spec.width):
        blocks += [
            nn.Conv2d(before, spec.width, kernel_size=3, padding=1),
            _group_norm(spec.width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    features = spec.width * (height // 16) * (width // 16)
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(features, classes))


def _resnet18(spec: ModelSpec, shape: Shape, classes: int) -> nn.Module:
    from common.resnet import resnet18  # torchvision takes a second to import

    return resnet18(channels=_image(spec, shape)[0], classes=classes, norm=_group_norm)


def _backbone(spec: ModelSpec, shape: Shape, classes: int) -> nn.Module:
    from common.transfer.backbone import backbone

    _image(spec, shape)
    assert spec.backbone is not None  # ModelSpec asks for it
    return backbone(spec.backbone, size=spec.backbone_size, classes=classes)


MODELS: dict[str, Callable[[ModelSpec, Shape, int], nn.Module]] = {
    "logistic": _logistic,
    "mlp": _mlp,
    "conv4": _conv4,
    "resnet18": _resnet18,
    "backbone": _backbone,
}
OF_PICTURES = ("conv4", "resnet18", "backbone")


def _flat(shape: Shape) -> int:
    return int(torch.Size(shape).numel())


def _group_norm(channels: int) -> nn.Module:
    """Return group normalisation with at most 32 groups, of at least two channels where it can."""
    most = min(32, max(1, channels // 2))
    return nn.GroupNorm(max(g for g in range(1, most + 1) if channels % g == 0), channels)


def _image(spec: ModelSpec, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise StudyError(
            f"model.name is {spec.name!r}, which needs images, but the cohort is a table",
            remedy="use model.name = 'logistic' or 'mlp', or a cohort of images",
        )
    return shape[0], shape[1], shape[2]
