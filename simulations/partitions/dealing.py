"""Patients of one public data set dealt to hospitals whose case mixes differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

_LEAST = 10  # patients of a hospital


def deal(
    outcome: NDArray[np.int64], *, hospitals: int, alpha: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deal patients, each outcome by proportions from a Dirichlet distribution (Hsu et al. 2019).

    Args:
        outcome: Of each patient, (patients,).
        hospitals: How many.
        alpha: The smaller, the more the hospitals' case mixes differ.
        rng: Draws the proportions, and who is dealt where.

    Returns:
        Each patient's hospital, from 0, (patients,).
    """
    dealt = np.zeros(len(outcome), dtype=np.int64)
    for value in np.unique(outcome):
        group = rng.permutation(np.flatnonzero(outcome == value))
        shares = rng.dirichlet(np.full(hospitals, alpha))
        ends = np.round(np.cumsum(shares) * len(group)).astype(np.int64)
        dealt[group] = np.searchsorted(ends, np.arange(len(group)), side="right")
    return dealt


def check_hospital(outcome: NDArray[np.int64], number: int) -> None:
    """Refuse a hospital of too few patients, or of one outcome.

    Raises:
        DataError: so it is dealt.
    """
    remedy = "lower simulation.partition.hospitals or raise its alpha"
    if len(outcome) < _LEAST:
        raise DataError(
            f"simulation.partition deals {len(outcome)} patients to hospital {number}",
            remedy=remedy,
        )
    if len(set(outcome.tolist())) == 1:
        raise DataError(
            f"simulation.partition deals patients of one class to hospital {number}", remedy=remedy
        )
