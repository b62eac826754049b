"""Exact intervals: of a rate from a count, of a standard deviation from normal samples."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import beta, chi2

from common.intervals import Estimate
from common.metrics import Array


def clopper_pearson(hits: int, *, trials: int, p: float) -> Estimate:
    """Return a rate with its interval of confidence 1 - p (Clopper and Pearson, Biometrika 1934).

    The ends are the rates at which so many hits or more, and so many or fewer, have probability
    p/2: quantiles of beta distributions. No hits give 0 to 1 - (p/2)^(1/trials).

    Args:
        hits: 0 to `trials`.
        trials: At least 1.
        p: Probability of missing the true rate, in (0, 1).

    Raises:
        ValueError: an argument is out of range.

    >>> found = clopper_pearson(0, trials=10, p=.05)
    >>> found.low, round(found.high, 4)
    (0.0, 0.3085)
    """
    if not (trials >= 1 and 0 <= hits <= trials):
        raise ValueError(
            f"hits {hits} of {trials} trials: use at least one trial, and no more hits"
        )
    _check_level(p)
    low = float(beta.ppf(p / 2, hits, trials - hits + 1)) if hits > 0 else 0.0
    high = float(beta.isf(p / 2, hits + 1, trials - hits)) if hits < trials else 1.0
    return Estimate(hits / trials, low, high)


def standard_deviation(samples: Array, *, p: float) -> Estimate:
    """Return the standard deviation around 0 of normal samples, with confidence 1 - p.

    For n draws of N(0, s^2) the sum of squares over s^2 is chi-square with n degrees of freedom.

    Args:
        samples: Any shape, at least one value; all finite.
        p: Probability of missing the true one, in (0, 1).

    Raises:
        ValueError: no sample, or one that is not finite.

    >>> standard_deviation(np.array([1.0, -1.0]), p=.05).value
    1.0
    """
    values = np.asarray(samples, dtype=np.float64).reshape(-1)
    _check_level(p)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"{values.size} samples: give at least one, and finite ones only")
    total, n = float(values @ values), values.size
    low, high = total / chi2.isf(p / 2, n), total / chi2.ppf(p / 2, n)
    return Estimate(math.sqrt(total / n), math.sqrt(low), math.sqrt(high))


def _check_level(p: float) -> None:
    if not 0 < p < 1:
        raise ValueError(f"p is {p}; use a number between 0 and 1")
