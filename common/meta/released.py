"""An effect at one hospital, from numbers that it released with noise; what tables tell is in
`common.meta.released_tables`, what histograms of scores tell in `common.meta.released_scores`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from common.meta.heterogeneity import Array

Z = float(norm.isf(0.025))
_ARM = 30  # patients an arm, and how many noise deviations, for which the coverage was tested
_ARM_NOISE = 8
_LEAST_ARM_NOISE = 4  # noise deviations below which the size of an arm is not known


@dataclass(frozen=True)
class Released:
    """An effect at one hospital, on the scale on which it is pooled.

    Attributes:
        value: None where it is too noisy to say.
        low: lower end of its 95% interval; None where it is open.
        high: upper end; None likewise.
        sampling: what patients add to its variance; 0 where value is None.
        noise: what the noise adds.
        why: why it is not to be pooled, or ''.
        note: what a reader should know, or ''.
    """

    value: float | None
    low: float | None
    high: float | None
    sampling: float = 0.0
    noise: float = 0.0
    why: str = ""
    note: str = ""

    @property
    def variance(self) -> float:
        """Of the value, patients and noise."""
        return self.sampling + self.noise


def wald(value: float, sampling: float, noise: float, *, note: str = "") -> Released:
    """Return an effect with the interval that its variance makes.

    >>> wald(0.0, 0.75, 0.25).high == Z
    True
    """
    half = Z * math.sqrt(sampling + noise)
    return Released(value, value - half, value + half, sampling, noise, note=note)


def too_noisy(what: str, sigma: float) -> str:
    """Say why an effect is not to be pooled."""
    return f"too noisy: {what} does not stand out from its noise ({sigma:.3g})"


def means_effect(moments: Array, *, sigma: float, span: float) -> Released:
    """Return the difference of means that a hospital's released sums tell.

    With n patients, mean m and variance s^2 of a number u in [-1, 1] in an arm, and noise of
    deviation sigma in n, in the sum of u and in that of u^2, the mean has by the delta method

        v = s^2 / n + sigma^2 (1 + m^2) / n^2

    and the difference has the sum of both arms' v. s^2 is worked out with n - 1 from the noisy sums
    and is at most 1; one below its own noise, sigma / n, is taken as that. The interval is
    value +/- 1.96 sqrt(v): tested to cover 93% to 97% with 30 patients an arm and arms of 8
    sigma. An arm of fewer than 4 sigma is too noisy.

    Args:
        moments: (2, 3): treated first; patients, sum of u, sum of u^2.
        sigma: standard deviation of the noise in each; 0 if exact.
        span: half the number's range, in its own unit.

    >>> round(means_effect(np.array([[50, 10, 20], [50, 5, 20]]), sigma=0, span=10).value, 6)
    1.0
    """
    n, first, second = np.asarray(moments, dtype=np.float64).T
    if not (n > max(_LEAST_ARM_NOISE * sigma, 1.0)).all():
        return Released(None, None, None, why=too_noisy("an arm's size", sigma))
    note = ""
    if n.min() < max(_ARM, _ARM_NOISE * sigma):
        note = "an arm is small for its noise: the interval may not cover 95%"
    mean = np.clip(first / n, -1.0, 1.0)
    spread = np.clip((second / n - mean**2) * n / (n - 1), sigma / n, 1.0)
    if not spread.all():
        return Released(None, None, None, why="all values of an arm are equal: no variance")
    sampling, noise = float((spread / n).sum()), float((sigma**2 * (1 + mean**2) / n**2).sum())
    return wald(float(mean[0] - mean[1]) * span, sampling * span**2, noise * span**2, note=note)


def ends(grid: Array, excess: Array) -> tuple[float | None, float | None]:
    """Return the outermost points where the excess is not above 0; None where it never is, or open.

    Args:
        grid: (points,) increasing.
        excess: (points,); an end is interpolated between two of them.

    >>> ends(np.array([0.0, 1.0, 2.0]), np.array([1.0, -1.0, -1.0]))
    (0.5, None)
    """
    inside = np.flatnonzero(excess <= 0)
    if not inside.size:
        return None, None

    def end(kept: int, lost: int) -> float | None:
        if not 0 <= lost < len(grid):
            return None
        part = excess[lost] / (excess[lost] - excess[kept])
        return float(grid[lost] + part * (grid[kept] - grid[lost]))

    first, last = int(inside[0]), int(inside[-1])
    return end(first, first - 1), end(last, last + 1)


def notes_of(rows: Mapping[str, Released]) -> tuple[str, ...]:
    """Return every hospital's note, named."""
    return tuple(f"{name}: {row.note}" for name, row in rows.items() if row.note)
