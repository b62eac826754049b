"""The clipped sum of a large model, with one record's gradient in memory at a time.

The hooks of `common.privacy.engine` hold a record's gradient twice and every layer's input
unfolded, and a batch of records so many times. Here a record's gradient comes from an ordinary
backward pass of that record alone: the same g_j and c_j, and the same guarantees. Beside the
weights there is the sum, one gradient, and one more where a patient has several records.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.cohort.parts import Part
from common.models import objective_of
from common.privacy.augmentation import expanded
from common.privacy.clipping import clip_factors
from common.study import Clipping

_PIECE = 2**18  # values at once in float64: blocks large enough to be given back when freed


def clipped_sum(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    batch: Part,
    *,
    clip: float,
    rule: Clipping = "norm",
) -> list[Tensor]:
    """Return the sum over patients of their clipped mean gradients, shaped as `parameters`.

    Args:
        model: A module that knows its objective; its weights are where to take the gradient.
        parameters: Those of the model that are trained.
        batch: The sampled patients with at most k records each; may be empty.
        clip: C; infinity for none.
        rule: As `common.privacy.clipping`.
    """
    total = [torch.zeros_like(p, requires_grad=False) for p in parameters]
    order = torch.argsort(batch.patient, stable=True)
    sizes = torch.bincount(batch.patient, minlength=batch.patients).tolist()
    for records in torch.split(order, sizes):
        mean = _mean_gradient(model, parameters, expanded(batch.select(records)))
        if mean:
            dtype = mean[0].dtype
            factor = float(clip_factors(_norm(mean), clip=clip, dtype=dtype, rule=rule))
            for value, gradient in zip(total, mean, strict=True):
                if factor > 0:
                    value.add_(gradient, alpha=factor)
        del mean  # or the next one would be made beside it
    return total


def _mean_gradient(model: nn.Module, parameters: Sequence[nn.Parameter], own: Part) -> list[Tensor]:
    """Return a patient's mean gradient over the own records; non-finite ones are 0; none is []."""
    device, objective = parameters[0].device, objective_of(model)
    mean: list[Tensor] = []
    for record in range(len(own.x)):
        x, y = own.x[record : record + 1], own.y[record : record + 1]
        loss = objective.losses(model(x.to(device)), y.to(device)).sum()
        found = list(torch.autograd.grad(loss, parameters))
        if not torch.isfinite(_norm(found)):
            continue
        weight = float(own.weights[record])
        if mean:
            for value, gradient in zip(mean, found, strict=True):
                value.add_(gradient, alpha=weight)
        else:
            mean = found if weight == 1 else [gradient.mul_(weight) for gradient in found]
    return mean


def _norm(gradient: list[Tensor]) -> Tensor:
    """Return the Euclidean norm, float64."""
    pieces = (piece for g in gradient for piece in torch.split(g.reshape(-1), _PIECE))
    norms = [torch.linalg.vector_norm(piece, dtype=torch.float64) for piece in pieces]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
