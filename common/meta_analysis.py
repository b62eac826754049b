"""Random-effects meta-analysis of one figure over hospitals.

Hospitals differ in their patients, so their true figures differ too: the pooled mean says what an
average hospital may expect, the prediction interval what the next one may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, t
from statsmodels.stats.meta_analysis import combine_effects

_EDGE = 5e-3  # an AUC of 0 or 1 has no logit; ends of intervals are moved this far inside
_LEAST_SE = 1e-3
_FEWEST = 3  # hospitals to pool


@dataclass(frozen=True)
class Pooled:
    """A pooled mean of k estimates, on their own scale.

    Attributes:
        mean: of the hospitals' true values.
        se: standard error of the mean.
        low: lower end of its confidence interval.
        high: upper end.
        prediction_low: lower end of the interval for the true value of a new hospital; None
            below three hospitals, where its spread cannot be judged.
        prediction_high: upper end; None likewise.
        tau2: variance between hospitals (Paule and Mandel).
        i2: share of the spread of the estimates that is not sampling error, 0 to 1.
        q: Cochran's Q.
        k: number of hospitals.
        method: in words.
    """

    mean: float
    se: float
    low: float
    high: float
    prediction_low: float | None
    prediction_high: float | None
    tau2: float
    i2: float
    q: float
    k: int
    method: str


def random_effects(
    estimates: Sequence[float], variances: Sequence[float], *, level: float = 0.95
) -> Pooled:
    """Pool estimates whose true values differ.

    Between-hospital variance by Paule and Mandel (J Res NBS 1982); confidence interval by Hartung
    and Knapp (Stat Med 2001) with t on k - 1 degrees of freedom, never narrower than the usual
    standard error would make it (Roever, Knapp and Friede, BMC Med Res Methodol 2015: the plain
    form can shrink to a point when the estimates happen to agree). Two hospitals leave one degree
    of freedom: an honest, very wide interval. One hospital is its own mean, with its normal
    interval and no between-hospital variance.

    Args:
        estimates: (k,) one a hospital, on a scale where they are about normal.
        variances: (k,) their sampling variances.
        level: of both intervals.

    Returns:
        The pooled mean and its intervals.

    Raises:
        ValueError: if there are none, lengths differ, or a value or variance is not usable.

    >>> pooled = random_effects([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
    >>> round(pooled.mean, 6), round(pooled.tau2, 6), pooled.q, round(pooled.i2, 6)
    (2.0, 0.5, 4.0, 0.5)
    """
    y, v = np.asarray(estimates, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if y.ndim != 1 or y.shape != v.shape or not y.size:
        raise ValueError(f"estimates {y.shape}, variances {v.shape}: give equally many, at least 1")
    if not (np.isfinite(y).all() and np.isfinite(v).all() and (v > 0).all()):
        raise ValueError("estimates must be finite and variances finite and above 0")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a number between 0 and 1")
    k = int(y.size)
    if k == 1:
        mean, se = float(y[0]), float(np.sqrt(v[0]))
        half = float(norm.isf((1 - level) / 2)) * se
        only = "one hospital: its own estimate"
        return Pooled(mean, se, mean - half, mean + half, None, None, 0.0, 0.0, 0.0, 1, only)
    with np.errstate(divide="ignore", invalid="ignore"):  # equal estimates: Q = 0 and 1 - df/Q
        # The solver's tolerance stays as it is: a tighter one lets rounding push the estimating
        # equation below zero, which it takes for 'no variance between hospitals'.
        fit = combine_effects(y, v, method_re="iterated", use_t=True, alpha=1 - level)
    mean, tau2, q = float(fit.mean_effect_re), float(fit.tau2), max(float(fit.q), 0.0)
    se = max(float(fit.sd_eff_w_re_hksj), float(fit.sd_eff_w_re))
    half = float(t.isf((1 - level) / 2, k - 1)) * se
    ahead = prediction_interval(mean, se=se, tau2=tau2, df=k - 2, level=level) if k > 2 else None
    return Pooled(
        mean=mean,
        se=se,
        low=mean - half,
        high=mean + half,
        prediction_low=None if ahead is None else ahead[0],
        prediction_high=None if ahead is None else ahead[1],
        tau2=tau2,
        i2=max(0.0, 1 - (k - 1) / q) if q > 0 else 0.0,
        q=q,
        k=k,
        method="random effects, Paule-Mandel, Hartung-Knapp",
    )


def prediction_interval(
    mean: float, *, se: float, tau2: float, df: float, level: float = 0.95
) -> tuple[float, float]:
    """Interval for the true value of a new hospital: mean -/+ t(df) sqrt(tau2 + se^2).

    Higgins, Thompson and Spiegelhalter, J R Stat Soc A 2009, with df = k - 2; IntHout et al., BMJ
    Open 2016, plead for giving it with every random-effects mean.

    Args:
        mean: pooled mean.
        se: its standard error.
        tau2: variance between hospitals.
        df: degrees of freedom of t; infinite gives the normal interval.
        level: of the interval.

    Returns:
        Lower and upper end.

    >>> [round(end, 3) for end in prediction_interval(0.0, se=3.0, tau2=16.0, df=float("inf"))]
    [-9.8, 9.8]
    """
    quantile = norm.isf((1 - level) / 2) if np.isinf(df) else t.isf((1 - level) / 2, df)
    half = float(quantile) * float(np.sqrt(tau2 + se**2))
    return mean - half, mean + half


def pool_auc(
    aucs: Sequence[float | None],
    lows: Sequence[float | None],
    highs: Sequence[float | None],
    *,
    level: float = 0.95,
) -> dict[str, float | int | str | None] | None:
    """Pool AUCs that come with intervals, on the logit scale (Snell et al., SMMR 2018).

    The standard error on that scale is the length of the interval over twice the normal quantile,
    or, where the interval ends at 0 or 1 and says nothing on that side, the length of its other
    half over the quantile. Fewer than three hospitals are not pooled: the interval of two says
    nothing.
    A hospital without an AUC, or whose interval is all of [0, 1], says nothing and is left out.

    Args:
        aucs: (hospitals,) estimates in [0, 1].
        lows: (hospitals,) lower ends of their intervals.
        highs: (hospitals,) upper ends.
        level: of the intervals, given and returned.

    Returns:
        `auc`, `low`, `high`, `prediction_low`, `prediction_high` (as AUCs), `tau2` (logit scale),
        `k` and `method`; None if fewer than three hospitals are left.

    Raises:
        ValueError: if the three differ in length.

    >>> pool_auc([.8, .7, .9, None], [.7, .6, .8, 0.], [.87, .8, .95, 1.])["k"]
    3
    """
    usable = [
        (auc, low, high)
        for auc, low, high in zip(aucs, lows, highs, strict=True)
        if auc is not None and low is not None and high is not None and (low > 0 or high < 1)
    ]
    if len(usable) < _FEWEST:
        return None
    table = np.array(usable, dtype=np.float64)
    centre, low, high = logit(np.clip(table, _EDGE, 1 - _EDGE)).T
    half = np.where(table[:, 2] >= 1 - _EDGE, centre - low, (high - low) / 2)
    half = np.where(table[:, 1] <= _EDGE, high - centre, half)
    se = np.maximum(half / norm.isf((1 - level) / 2), _LEAST_SE)
    pooled = random_effects(centre.tolist(), (se**2).tolist(), level=level)

    def auc_of(value: float | None) -> float | None:
        return None if value is None else float(expit(value))

    return {
        "auc": auc_of(pooled.mean),
        "low": auc_of(pooled.low),
        "high": auc_of(pooled.high),
        "prediction_low": auc_of(pooled.prediction_low),
        "prediction_high": auc_of(pooled.prediction_high),
        "tau2": pooled.tau2,
        "k": pooled.k,
        "method": f"{pooled.method}, logit scale",
    }
