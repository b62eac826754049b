"""Where a hospital's classes lie in a learned space: sums and counts that one patient bounds.

Guarantees
    Let z_r be the place of record r, of Euclidean norm at most R, and e_s the unit vector of its
    slot s(r): the class, or one of m slots of the class, which a keyed hash of the patient's own id
    picks. A patient j of the sample, with at most k records r_j, adds

        u_j = mean over r in r_j of ( z_r (x) e_s(r),  w e_s(r) ),      w = R / 2,

    to the sums and the counts. Each term has norm at most (R^2 + w^2)^(1/2), and so has their mean:
    |u_j| <= C_u = R sqrt(5) / 2, whatever the records are and however many; a place that is not
    finite counts as no record, and changes no other patient's share. One patient more or less moves
    the vector of all sums and counts by at most C_u, so with N(0, (sigma C_u)^2 I) it is one
    Poisson-subsampled Gaussian of multiplier sigma (see `common.privacy.engine` for the sample).
    References made of the two are post-processing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.cohort.parts import Part
from common.params import Params

_COUNT_WEIGHT = 0.5  # of the radius: counts are large numbers, and need less room than places


def sensitivity(radius: float) -> float:
    """Return C_u, the most that one patient adds, in Euclidean norm.

    >>> round(sensitivity(2.0), 4)
    2.2361
    """
    return radius * math.hypot(1.0, _COUNT_WEIGHT)


def count_weight(radius: float) -> float:
    """Return w, what a patient's count is multiplied by."""
    return radius * _COUNT_WEIGHT


def class_sums(places: Tensor, batch: Part, *, classes: int, slots: int, weight: float) -> Params:
    """Return the sums of the sampled patients' mean places, and their counts, by class and slot.

    Args:
        places: Of the batch's records, (records, dim), of norm at most R.
        batch: The sampled patients with at most k records each; may be empty.
        classes: How many there are; a record of another class counts nowhere.
        slots: References a class, m.
        weight: w.

    Returns:
        'sums' (classes, slots, dim) and 'counts' (classes, slots), each patient counting w in all.
    """
    dim = places.shape[1]
    counted = torch.isfinite(places).all(1) & (batch.y >= 0) & (batch.y < classes)
    mass = (batch.weights * counted).to(places)
    places = torch.where(counted[:, None], places, torch.zeros_like(places))
    slot = torch.where(counted, batch.y, torch.zeros_like(batch.y)) * slots + _slot(batch, slots)
    sums, counts = places.new_zeros(classes * slots, dim), places.new_zeros(classes * slots)
    sums.index_add_(0, slot, places * mass[:, None])
    counts.index_add_(0, slot, mass * weight)
    return {"sums": sums.reshape(classes, slots, dim), "counts": counts.reshape(classes, slots)}


def _slot(batch: Part, slots: int) -> Tensor:
    """Return which of its class's references each record counts for, (records,)."""
    if slots == 1:
        return torch.zeros_like(batch.patient)
    assert batch.draws is not None  # a cohort that is read has them
    return (batch.draws[batch.patient, 1] * slots).long()
