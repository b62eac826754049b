"""What a model's outputs are held to: one loss a record, and the probabilities they stand for.

An objective looks at one record at a time, so a patient's part in it can be bounded. One that
couples records (pairs, triplets, partial likelihoods) is written here against values that were
released before, or has no private form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.metric_spec import MetricSpec

Losses = Callable[[Tensor, Tensor], Tensor]


def _softmax(outputs: Tensor) -> Tensor:
    return outputs.softmax(1)


@dataclass(frozen=True)
class Objective:
    """How outputs are judged.

    Attributes:
        name: As a study names it.
        losses: (outputs (records, outputs), y (records,)) -> one loss a record, (records,).
        probabilities: outputs -> probability of each class, (records, classes).
        whole_batch: Whether a record's loss holds the other records of the batch: no patient's part
            can be bounded then, so it has no private form, and its outputs only rank.
    """

    name: str
    losses: Losses
    probabilities: Callable[[Tensor], Tensor] = _softmax
    whole_batch: bool = False


def _own(outputs: Tensor, y: Tensor) -> Tensor:
    """Return where each record's own class stands, (records, outputs), bool."""
    return torch.arange(outputs.shape[1], device=y.device) == y[:, None]


def _at(outputs: Tensor, y: Tensor) -> Tensor:
    """Return each record's output of its own class, (records,)."""
    return outputs.gather(1, y[:, None])[:, 0]


def _cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs, y, reduction="none")


CROSS_ENTROPY = Objective("cross_entropy", _cross_entropy)


def contrastive(*, margin: float, form: str) -> Objective:
    """Return the contrastive loss of a record against one reference of each class.

    With d_c the distance to the reference of class c, y the record's class, m the margin:

        'squared'   1/2 (d_y^2 + mean_{c != y} max(0, m - d_c)^2)   (Hadsell, Chopra, LeCun 2006)
        'distance'  1/2 (d_y   + mean_{c != y} max(0, m - d_c))     (the same without squares)

    Outputs are minus the distances (`common.references`), so they rank classes as they are.

    >>> loss = contrastive(margin=1.0, form="squared").losses
    >>> round(loss(torch.tensor([[0.0, -0.5]]), torch.tensor([0])).item(), 3)
    0.125
    """
    power = {"squared": 2, "distance": 1}[form]

    def losses(outputs: Tensor, y: Tensor) -> Tensor:
        own = _own(outputs, y)
        near = -_at(outputs, y)
        far = (margin + outputs).clamp(min=0).pow(power) * ~own
        return (near.pow(power) + far.sum(1) / max(1, outputs.shape[1] - 1)) / 2

    return Objective("contrastive", losses)


def triplet(*, margin: float) -> Objective:
    """Return the triplet loss of a record against the references of its own and other classes.

    The record is the anchor, its class's reference the positive. Of the others the negative is the
    nearest that is further away than the positive, where one violates the margin (semi-hard mining:
    Schroff, Kalenichenko and Philbin 2015), else the furthest of those nearer than the positive:

        max(0, d_y - d_n + m)

    Outputs are minus the distances (`common.references`).
    """

    def losses(outputs: Tensor, y: Tensor) -> Tensor:
        distance, own = -outputs, _own(outputs, y)
        positive = _at(distance, y)
        behind = distance.masked_fill(own | (distance <= positive[:, None]), torch.inf)
        ahead = distance.masked_fill(own, -torch.inf)
        ahead = ahead.masked_fill(distance > positive[:, None], -torch.inf)
        semi_hard, hard = behind.min(1).values, ahead.max(1).values
        negative = torch.where(semi_hard < torch.inf, semi_hard, hard)
        return (positive - negative + margin).clamp(min=0)

    return Objective("triplet", losses)


def of_metric(spec: MetricSpec) -> Objective:
    """Return what a learned space is held to."""
    if spec.loss == "contrastive":
        return contrastive(margin=spec.margin, form=spec.form)
    if spec.loss == "triplet":
        return triplet(margin=spec.margin)
    return CROSS_ENTROPY


def _one_against_rest(outputs: Tensor, y: Tensor) -> Tensor:
    own = _own(outputs, y).to(outputs)
    return F.binary_cross_entropy_with_logits(outputs, own, reduction="none").sum(1)


def _pairs(outputs: Tensor, y: Tensor) -> Tensor:
    ahead = outputs - _at(outputs, y)[:, None]
    return (F.softplus(ahead) * ~_own(outputs, y)).sum(1)


def _sigmoids(outputs: Tensor) -> Tensor:
    scores = outputs.sigmoid()
    return scores / scores.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


ONE_AGAINST_REST = Objective("one_against_rest", _one_against_rest, _sigmoids)
"""Every class against the rest, all such problems at once."""

PAIRS = Objective("pairs", _pairs)
"""Every pair of classes, all such problems at once (the record's own class against each other)."""
