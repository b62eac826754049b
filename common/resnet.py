"""torchvision's ResNet-18, made fit for the gradients of single patients."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet


class _Block(BasicBlock):  # type: ignore[misc]  # torchvision ships no types
    """torchvision's residual block, added out of place: Opacus's hooks cannot have it in place."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return cast(Tensor, self.relu(out + (x if self.downsample is None else self.downsample(x))))


def resnet18(*, channels: int, classes: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    """Return ResNet-18 (He et al. 2016) with another normalisation and first layer.

    Args:
        channels: Of the input images.
        classes: Number of logits.
        norm: Makes the normalisation of so many channels, in place of batch normalisation.
    """
    net = ResNet(_Block, [2, 2, 2, 2], num_classes=classes, norm_layer=norm)
    net.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # the hooks need the layer's input as it was
    return cast(nn.Module, net)
