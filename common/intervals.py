"""Figures with intervals from the cells of one noisy histogram of scores by outcome.

A cell holds a Poisson number of patients plus noise. For a mean theta = A.h / B.h of the cells h,
the interval is the set of values that the statistic (A - theta B).h does not reject, with the
variance it would have if theta were true (Wilson 1927 for the patients, Fieller 1954 for a
denominator that is itself noisy). It stays within the range of the figure; without noise,
sensitivity, specificity and accuracy have exactly Wilson's interval. A patient with several
records spreads over cells with weights w, sum 1; diag(w) - w w' is positive semi-definite, so the
Poisson variance then errs on the safe side. Simulated coverage of the 95% intervals (60 to 500
patients, noise 0 to 4, 10 and 20 bins, AUC .69 to .96) is 92 to 99%. It is a promise over all
releases, 'too noisy to say' included: where nine in ten say that, the tenth may be a fluke (87%).

Throughout, `counts` are the (2, bins) noisy patients of one class, without it and with it; `sigma`
is the standard deviation of the noise in a cell; `z` is the normal quantile of the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from common.metrics import MAX_SLOPE, Array, fit_logistic

_STEPS = 2000  # resolution of the inverted tests; ends are interpolated between steps


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; value None: too noisy, or nobody, to say."""

    value: float | None
    low: float
    high: float


def mean(counts: Array, cost: Array, *, among: Array, sigma: float, z: float) -> Estimate:
    """The mean, over patients in the cells `among`, of a cost in [0, 1] that depends on the cell.

    Wilson's variance under theta, theta (1 - theta) a patient, times a dispersion, plus the noise.
    The dispersion is 1 for costs of 0 and 1, less for others, and learned as if from one patient
    of dispersion 1 more, so that a few equal patients do not make a figure look certain.
    """
    total = float((among * counts).sum())
    if _too_noisy(total, among, sigma):
        return Estimate(None, 0.0, 1.0)
    theta = np.linspace(0.0, 1.0, _STEPS + 1)
    value = float((cost * counts).sum()) / total
    spread, most = float((among * (cost - value) ** 2 * counts).sum()), value * (1 - value)
    part = min(max(spread / (total * most), 0.0), 1.0) if most > 0 else 1.0
    dispersion = (total * part + 1) / (total + 1)
    square, line, one = (float((among * x).sum()) for x in (cost**2, cost, np.ones_like(cost)))
    noise = sigma**2 * (square - 2 * theta * line + theta**2 * one)
    return _invert(value, total, theta, dispersion * theta * (1 - theta) * total + noise, z)


def auc(counts: Array, edges: Array, *, sigma: float, z: float) -> Estimate:
    """The AUC: Hanley and McNeil's variance under theta (Newcombe's method), plus the noise."""
    negative, positive = counts
    n, p, bins = float(negative.sum()), float(positive.sum()), counts.shape[1]
    if _too_noisy(n, np.ones(bins), sigma) or _too_noisy(p, np.ones(bins), sigma):
        return Estimate(None, 0.0, 1.0)
    theta = np.linspace(0.0, 1.0, _STEPS + 1)
    pairs = max((n + p) / 2 - 1, 0.0)
    q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
    sampling = n * p * (theta * (1 - theta) + pairs * (q1 + q2 - 2 * theta**2))

    def within(ties: Array) -> Estimate:
        above = np.tri(bins, k=-1) + np.diag(ties)  # [positive bin, negative bin]
        # The noise of u'Mv, M = above - theta, is sigma^2 (|Mv|^2 + |M'u|^2) + sigma^4 |M|^2 at
        # the true u and v; the noisy ones exceed the first part by 2 sigma^4 |M|^2 on average.
        wins = (above @ negative)[:, None] - theta * n
        losses = (above.T @ positive)[:, None] - theta * p
        size = (above**2).sum() - 2 * theta * above.sum() + theta**2 * bins**2
        first, second = (wins**2).sum(axis=0) + (losses**2).sum(axis=0), sigma**4 * size
        variance = sampling + np.maximum(sigma**2 * first - second, second)
        return _invert(float(positive @ above @ negative) / (n * p), n * p, theta, variance, z)

    # Within a bin of width w around m, scores spread evenly from a calibrated model win
    # 1/2 + w / (12 m (1 - m)) of the pairs; a model without any skill there wins one half.
    middle, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    least = within(np.full(bins, 0.5))
    return replace(least, high=within(0.5 + width / (12 * middle * (1 - middle))).high)


def _invert(value: float, scale: float, theta: Array, variance: Array, z: float) -> Estimate:
    """All theta with (scale (value - theta))^2 <= z^2 variance; value moved into their range."""
    value = min(max(value, float(theta[0])), float(theta[-1]))
    excess = (scale * (value - theta)) ** 2 - z**2 * variance
    inside = np.flatnonzero(excess <= 0)
    if not len(inside):  # narrower than one step
        return Estimate(value, value, value)

    def end(kept: int, lost: int) -> float:
        if not 0 <= lost < len(theta):
            return float(theta[kept])
        part = excess[lost] / (excess[lost] - excess[kept])
        return float(theta[lost] + part * (theta[kept] - theta[lost]))

    first, last = int(inside[0]), int(inside[-1])
    return Estimate(value, min(end(first, first - 1), value), max(end(last, last + 1), value))


def _too_noisy(total: float, cells: Array, sigma: float) -> bool:
    """Whether a sum of cells cannot be told from noise."""
    return not total > 2 * sigma * float(np.sqrt((cells**2).sum()))


def balanced(a: Estimate, b: Estimate) -> Estimate:
    """Mean of two independent figures (method of variance recovery, Zou and Donner 2008)."""
    if a.value is None or b.value is None:
        return Estimate(None, 0.0, 1.0)
    value = (a.value + b.value) / 2
    down = float(np.hypot(a.value - a.low, b.value - b.low)) / 2
    up = float(np.hypot(a.high - a.value, b.high - b.value)) / 2
    return Estimate(value, value - down, value + up)


def macro(parts: Sequence[Estimate]) -> Estimate:
    """Mean over the classes that are not too noisy."""
    known = [(part.value, part.low, part.high) for part in parts if part.value is not None]
    if not known:
        return parts[0]
    value, low, high = np.mean(known, axis=0).tolist()
    return Estimate(value, low, high)


def total_brier(parts: Sequence[Estimate]) -> Estimate:
    """Brier score of all classes, at most 2: probabilities sum to one, as do outcomes."""
    values = [part.value for part in parts if part.value is not None]
    low, high = sum(part.low for part in parts), sum(part.high for part in parts)
    value = min(sum(values), 2.0) if len(values) == len(parts) else None
    return Estimate(value, min(low, 2.0), min(high, 2.0))


def coefficient(counts: Array, x: Array, *, sigma: float, z: float, slope: bool) -> Estimate | None:
    """Last coefficient of a logistic regression on x, or of one with x as offset."""
    one = np.ones((len(x), 1))
    design, offset = (np.column_stack([one, x]), 0.0 * x) if slope else (one, x)
    fitted = fit_logistic(design, counts[1], counts[0], offset=offset)
    if fitted is None or abs(float(fitted[0][-1])) > MAX_SLOPE:
        return None
    beta, information = fitted
    risk = expit(design @ beta + offset)
    # The last column, less what the intercept explains of it, carries the coefficient.
    rest = design[:, -1] - (information[0, 1] / information[0, 0] if slope else 0.0)
    each = np.tile(risk * (1 - risk) * rest**2, (2, 1))
    bread = float((each * counts).sum())
    if _too_noisy(bread, each, sigma):
        return None
    residual = np.stack([risk, 1 - risk]) * rest  # sandwich: White, Econometrica 1982
    variance = float((residual**2 * (counts + sigma**2)).sum()) / bread**2
    half = z * float(np.sqrt(max(variance, 0.0)))
    if half > MAX_SLOPE:
        return None
    return Estimate(float(beta[-1]), float(beta[-1]) - half, float(beta[-1]) + half)
