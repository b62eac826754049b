"""The clipped sum of a stack of linear layers in closed form, without hooks.

For a layer z = W a + b the gradient of one record is g a^T for W and g for b, with g = dL/dz, so
its squared norm over all layers is sum_l |g_l|^2 (|a_l|^2 + 1), and the sum of the clipped
gradients is G^T diag(c) A: two products of matrices a layer (Goodfellow 2015, "Efficient
per-example gradient computations"; Li et al. 2022, ghost clipping). Several times faster than hooks
on a small network, and held to them by tests.

It serves patients of one record each: the norm of a mean over several records is not a product.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cohort.parts import Part
from common.params import Params
from common.privacy.clipping import clip_factors

Layers = list[tuple[str, str]]


def linear_layers(model: nn.Module) -> Layers | None:
    """Return each layer's names of weight and bias, or None where the model is no such stack.

    A stack is `Flatten`, then `Linear` layers with biases and a `ReLU` between every two.
    """
    names: Layers = []
    kinds: list[type[nn.Module]] = []
    for path, module in model.named_modules():
        if next(module.children(), None) is not None:
            continue
        kinds.append(type(module))
        if isinstance(module, nn.Linear):
            names.append((f"{path}.weight", f"{path}.bias"))
    expected = [nn.Flatten, *[nn.Linear, nn.ReLU] * len(names)][:-1]
    owned = {name for pair in names for name in pair}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    return names if names and kinds == expected and owned == trainable else None


@torch.no_grad()
def clipped_sum(params: Params, layers: Layers, batch: Part, *, clip: float) -> Params:
    """Return the sum of the patients' clipped gradients of the cross-entropy.

    Guarantees
        As `common.privacy.engine`: a record whose gradient, or its norm, is not finite is left out
        of the sum, every other one has norm at most `clip`.

    Args:
        params: Where to take the gradient.
        layers: As `linear_layers` returns them.
        batch: Patients of one record each; may be empty.
        clip: C; infinity for none.
    """
    inputs = [batch.x.flatten(1)]
    for (weight, bias), _ in pairwise(layers):
        inputs.append(F.relu(F.linear(inputs[-1], params[weight], params[bias])))
    weight, bias = layers[-1]
    logits = F.linear(inputs[-1], params[weight], params[bias])
    outcome = F.one_hot(batch.y, logits.shape[1]).to(logits.dtype)
    slopes = [logits.softmax(1) - outcome]  # dL/dz of the last layer, (records, classes)
    for (weight, _), a in zip(reversed(layers[1:]), reversed(inputs[1:]), strict=True):
        slopes.append((slopes[-1] @ params[weight]) * (a > 0))
    gradients = list(zip(inputs, reversed(slopes), strict=True))
    squares = sum(_square(g) * (_square(a) + 1) for a, g in gradients)
    factors = clip_factors(torch.as_tensor(squares).sqrt(), clip=clip, dtype=logits.dtype)
    total: Params = {}
    for (weight, bias), (a, g) in zip(layers, gradients, strict=True):
        scaled = torch.where(factors > 0, g * factors, 0.0)
        total[weight] = scaled.T @ torch.where(factors > 0, a, 0.0)
        total[bias] = scaled.sum(0)
    return total


def _square(rows: Tensor) -> Tensor:
    """Return each row's squared norm, (records, 1), float64."""
    return rows.to(torch.float64).square().sum(dim=1, keepdim=True)
