"""Effects and their sampling variances from what studies print, as metafor's escalc has them.

Every effect is computed on the scale where it is about normal (`Measure.scale`), pooled there, and
told to the reader on his own by `back`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, gammaln, logit
from scipy.stats import norm

from common.meta.heterogeneity import Array, Mask

CORRECTION = 0.5  # added to all four cells of a table with an empty one
_EDGE = 5e-3  # an AUC of 0 or 1 has no logit; values and ends are moved this far inside
_LEAST_SE = 1e-3


@dataclass(frozen=True)
class Measure:
    """What is pooled.

    Attributes:
        name: in words.
        scale: on which it is pooled, in words.
        ratio: whether it is pooled as a logarithm, so that `exp` gives the reader's value.
        null: its value, on that scale, where there is no effect; None where there is no such value.
    """

    name: str
    scale: str
    ratio: bool
    null: float | None


MEASURES = {
    "OR": Measure("odds ratio", "log odds ratio", True, 0.0),
    "RR": Measure("risk ratio", "log risk ratio", True, 0.0),
    "RD": Measure("risk difference", "risk difference", False, 0.0),
    "SMD": Measure("standardised mean difference", "Hedges' g", False, 0.0),
    "MD": Measure("mean difference", "mean difference", False, 0.0),
    "AUC": Measure("AUC", "logit of the AUC", False, None),
    "OE": Measure("observed over expected", "log O/E", True, 0.0),
    "GEN": Measure("effect", "effect as given", False, 0.0),
}


def back(measure: str, value: float | None) -> float | None:
    """Return a value on the reader's scale: a ratio, an AUC, or itself.

    >>> back("OR", 0.0), back("AUC", 0.0), back("RD", 0.1)
    (1.0, 0.5, 0.1)
    """
    if value is None or not (MEASURES[measure].ratio or measure == "AUC"):
        return value
    return float(expit(value) if measure == "AUC" else np.exp(min(value, 700.0)))


def two_by_two(
    measure: str, ai: Array, bi: Array, ci: Array, di: Array
) -> tuple[Array, Array, Mask]:
    """Compare events of two groups: log odds ratio, log risk ratio or risk difference.

    With p1 = a / (a + b) and p2 = c / (c + d):
        OR  log(a d / (b c)),     variance 1/a + 1/b + 1/c + 1/d
        RR  log(p1 / p2),         variance 1/a - 1/(a + b) + 1/c - 1/(c + d)
        RD  p1 - p2,              variance p1 (1 - p1) / (a + b) + p2 (1 - p2) / (c + d)
    A table with an empty cell has 1/2 added to all four cells, and no other table has (metafor's
    `add=1/2, to="only0"`, for the variance of RD as well). A table whose two groups both have no
    event, or both nothing but events, says nothing of a ratio's direction: its OR and RR are NaN,
    to be left out (Cochrane Handbook 10.4.4.1; RevMan's 'not estimable'; metafor's `drop00`).

    Args:
        measure: `OR`, `RR` or `RD`.
        ai: (k,) events of the first group, at least 0; need not be whole, as counts with noise.
        bi: (k,) the others of that group.
        ci: (k,) events of the second group.
        di: (k,) the others of that group.

    Returns:
        Effects (k,), variances (k,), and which tables were corrected (k,) of bool.

    >>> y, v, corrected = two_by_two("OR", *np.array([[10.0], [10.0], [5.0], [20.0]]))
    >>> round(float(np.exp(y[0])), 6), round(float(v[0]), 6), bool(corrected[0])
    (4.0, 0.45, False)
    """
    cells = np.array([ai, bi, ci, di], dtype=np.float64)
    silent = ((cells[0] == 0) & (cells[2] == 0)) | ((cells[1] == 0) & (cells[3] == 0))
    corrected = (cells == 0).any(axis=0)
    a, b, c, d = cells + CORRECTION * corrected
    n1, n2 = a + b, c + d
    if measure == "RD":
        p1, p2 = a / n1, c / n2
        return p1 - p2, p1 * (1 - p1) / n1 + p2 * (1 - p2) / n2, corrected
    if measure == "RR":
        y, v = np.log(a / n1) - np.log(c / n2), 1 / a - 1 / n1 + 1 / c - 1 / n2
    else:
        y, v = np.log(a * d / (b * c)), 1 / a + 1 / b + 1 / c + 1 / d
    return np.where(silent, np.nan, y), np.where(silent, np.nan, v), corrected


def mean_difference(
    measure: str, *, n1: Array, m1: Array, sd1: Array, n2: Array, m2: Array, sd2: Array
) -> tuple[Array, Array]:
    """Compare means of two groups: Hedges' g, or the plain difference.

    SMD is J(m) (m1 - m2) / s with the pooled s, m = n1 + n2 - 2 and the exact correction
    J(m) = Gamma(m/2) / (sqrt(m/2) Gamma((m-1)/2)) (Hedges, J Educ Stat 1981); its variance is
    1/n1 + 1/n2 + g^2 / (2 (n1 + n2)), metafor's default. MD has sd1^2/n1 + sd2^2/n2.

    Args:
        measure: `SMD` or `MD`.
        n1: (k,) size of the first group, with n2 at least 4 in all.
        m1: (k,) its mean.
        sd1: (k,) its standard deviation, above 0.
        n2: (k,) size of the second.
        m2: (k,) its mean.
        sd2: (k,) its standard deviation.

    Returns:
        Effects (k,) and variances (k,).
    """
    if measure == "MD":
        return m1 - m2, sd1**2 / n1 + sd2**2 / n2
    m = n1 + n2 - 2
    pooled = np.sqrt(((n1 - 1) * sd1**2 + (n2 - 1) * sd2**2) / m)
    exact = np.exp(gammaln(m / 2) - gammaln((m - 1) / 2)) / np.sqrt(m / 2)
    g = exact * (m1 - m2) / pooled
    return g, 1 / n1 + 1 / n2 + g**2 / (2 * (n1 + n2))


def auc_effect(auc: Array, *, se: Array) -> tuple[Array, Array]:
    """Return the logit of AUCs and its variance from standard errors, (se / (A (1 - A)))^2.

    Snell, Ensor, Debray, Moons and Riley, SMMR 2018. An AUC of 1 is taken as .995.

    >>> auc_effect(np.array([0.5]), se=np.array([0.05]))[1].round(6).tolist()
    [0.04]
    """
    inside = np.clip(auc, _EDGE, 1 - _EDGE)
    return logit(inside), (se / (inside * (1 - inside))) ** 2


def auc_from_interval(
    auc: Array, low: Array, high: Array, *, level: float = 0.95
) -> tuple[Array, Array]:
    """Return the logit of AUCs and its variance from intervals.

    The standard error on that scale is the length of the interval over twice the normal quantile,
    or, where the interval ends at 0 or 1 and says nothing on that side, the length of its other
    half over the quantile.
    """
    centre, below, above = (logit(np.clip(x, _EDGE, 1 - _EDGE)) for x in (auc, low, high))
    half = np.where(high >= 1 - _EDGE, centre - below, (above - below) / 2)
    half = np.where(low <= _EDGE, above - centre, half)
    return centre, np.maximum(half / norm.isf((1 - level) / 2), _LEAST_SE) ** 2


def auc_from_counts(auc: Array, *, cases: Array, controls: Array) -> tuple[Array, Array]:
    """Return the logit of AUCs and its variance from how many had the event and had not.

    Newcombe (Stat Med 2006), method 4, a form of Hanley and McNeil's with both counts in the two
    middle terms as N = (n + m) / 2 - 1, so that the variance does not depend on which is which.
    """
    area, n, m = np.clip(auc, _EDGE, 1 - _EDGE), cases, controls
    middle = (n + m) / 2 - 1
    terms = 1 + middle * (1 - area) / (2 - area) + middle * area / (1 + area)
    return auc_effect(area, se=np.sqrt(area * (1 - area) * terms / (n * m)))


def oe_effect(
    observed: Array, expected: Array, *, n: Array | None = None
) -> tuple[Array, Array, Mask]:
    """Return log(O/E), its variance and which rows were corrected.

    The variance of log O is 1/O - 1/n for O events of n patients, and 1/O (Poisson) where n is not
    known; E is the model's and taken for known (Debray et al., BMJ 2017). Where O is 0, 1/2 is
    added to O and to E.

    Args:
        observed: (k,) events, at least 0.
        expected: (k,) events that a model expects, above 0.
        n: (k,) patients, more than the events.

    >>> y, v, corrected = oe_effect(np.array([20.0]), np.array([10.0]), n=np.array([100.0]))
    >>> round(float(np.exp(y[0])), 6), round(float(v[0]), 6)
    (2.0, 0.04)
    """
    corrected = np.asarray(observed) == 0
    o, e = observed + CORRECTION * corrected, expected + CORRECTION * corrected
    return np.log(o / e), 1 / o - (0.0 if n is None else 1 / (n + corrected)), corrected


def from_interval(low: Array, high: Array, *, level: float = 0.95) -> Array:
    """Return variances from normal confidence intervals on the analysis scale."""
    return np.asarray((high - low) / (2 * norm.isf((1 - level) / 2))) ** 2
