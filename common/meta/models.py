"""Pooling: fixed and random effects, confidence and prediction intervals.

Hospitals differ in their patients, so their true figures differ too: the pooled mean says what an
average hospital may expect, the prediction interval what the next one may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from common.meta.heterogeneity import Array, between_variance, cochran_q, shares

TESTS = ("z", "knha", "adhoc")
FEWEST = 3  # studies to predict from: with two, k - 2 degrees of freedom are none
_NAMES = {
    "FE": "fixed effect",
    "DL": "random effects, DerSimonian-Laird",
    "PM": "random effects, Paule-Mandel",
    "ML": "random effects, ML",
    "REML": "random effects, REML",
    "HE": "random effects, Hedges",
}


@dataclass(frozen=True)
class Pooled:
    """A pooled mean of k estimates, on their own scale.

    Attributes:
        mean: of the studies' true values.
        se: standard error of the mean.
        low: lower end of its confidence interval.
        high: upper end.
        prediction_low: lower end of the interval for the true value of a new study; None below
            three studies, where its spread cannot be judged, and for a fixed effect, which has
            no spread.
        prediction_high: upper end; None likewise.
        tau2: variance between studies.
        i2: share of the spread of the estimates that is not sampling error, 0 to 1.
        h2: spread of the estimates over what sampling error makes.
        q: Cochran's Q.
        q_p: its p-value.
        k: number of studies.
        estimator: of tau2, metafor's name.
        test: of the intervals, metafor's name.
    """

    mean: float
    se: float
    low: float
    high: float
    prediction_low: float | None
    prediction_high: float | None
    tau2: float
    i2: float
    h2: float
    q: float
    q_p: float
    k: int
    estimator: str
    test: str

    @property
    def method(self) -> str:
        """Return the model in words."""
        if self.k == 1:
            return "one study: its own estimate"
        return _NAMES[self.estimator] + ("" if self.test == "z" else ", Hartung-Knapp")


def pool(
    estimates: Sequence[float] | Array,
    variances: Sequence[float] | Array,
    *,
    method: str = "REML",
    test: str = "z",
    level: float = 0.95,
) -> Pooled:
    """Pool estimates whose true values may differ.

    The mean has weights 1 / (v + tau2). Its intervals are, by `test`:
        z: normal quantiles, as metafor's defaults are. Too narrow with few studies, because tau2 is
            taken for known.
        knha: Hartung and Knapp (Stat Med 2001), the standard error from the weighted spread itself
            and t on k - 1 degrees of freedom; the prediction interval by t on k - 2 (Higgins,
            Thompson and Spiegelhalter, J R Stat Soc A 2009).
        adhoc: the same, but never narrower than the usual standard error would make it (Roever,
            Knapp and Friede, BMC Med Res Methodol 2015: the plain form can shrink to a point when
            the estimates happen to agree).
    Two studies leave `knha` one degree of freedom: an honest, very wide interval. One study is its
    own mean, with its normal interval and no between-study variance.

    Args:
        estimates: (k,) one a study, on a scale where they are about normal.
        variances: (k,) their sampling variances.
        method: how tau2 is estimated; see `common.meta.heterogeneity.between_variance`.
        test: one of `TESTS`.
        level: of both intervals.

    Returns:
        The pooled mean and its intervals.

    Raises:
        ValueError: if there are none, lengths differ, a value or variance is not usable, or a name
            is unknown.

    >>> pooled = pool([1.0, 2.0, 3.0], [0.5, 0.5, 0.5], method="DL")
    >>> round(pooled.mean, 6), pooled.tau2, pooled.q, pooled.i2
    (2.0, 0.5, 4.0, 0.5)
    """
    y, v = usable(estimates, variances)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a number between 0 and 1")
    if test not in TESTS:
        raise ValueError(f"test is {test!r}: use one of {', '.join(TESTS)}")
    k = int(y.size)
    tau2 = between_variance(y, v, method=method) if k > 1 else 0.0
    w = 1 / (v + tau2)
    mean, se, df = float(w @ y / w.sum()), float(w.sum() ** -0.5), float("inf")
    if test != "z" and k > 1:
        spread = float(np.sqrt(w @ (y - mean) ** 2 / ((k - 1) * w.sum())))
        se, df = (spread if test == "knha" else max(se, spread)), k - 1
    half = float(t.isf((1 - level) / 2, df)) * se
    ahead: tuple[float, float] | tuple[None, None] = (None, None)
    if k >= FEWEST and method != "FE":
        ahead = prediction_interval(mean, se=se, tau2=tau2, df=df - 1, level=level)
    i2, h2 = shares(y, v, tau2=tau2, method=method)
    q, q_p = cochran_q(y, v)
    return Pooled(
        mean=mean,
        se=se,
        low=mean - half,
        high=mean + half,
        prediction_low=ahead[0],
        prediction_high=ahead[1],
        tau2=tau2,
        i2=i2,
        h2=h2,
        q=q,
        q_p=q_p,
        k=k,
        estimator=method,
        test=test,
    )


def usable(
    estimates: Sequence[float] | Array, variances: Sequence[float] | Array
) -> tuple[Array, Array]:
    """Return estimates and variances as arrays, or say why they cannot be pooled."""
    y, v = np.asarray(estimates, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if y.ndim != 1 or y.shape != v.shape or not y.size:
        raise ValueError(f"estimates {y.shape}, variances {v.shape}: give equally many, at least 1")
    if not (np.isfinite(y).all() and np.isfinite(v).all() and (v > 0).all()):
        raise ValueError("estimates must be finite and variances finite and above 0")
    return y, v


def weights(variances: Array, tau2: float) -> Array:
    """Return the studies' shares of the pooled mean, which add up to 1.

    >>> weights(np.array([1.0, 3.0]), 0.0).tolist()
    [0.75, 0.25]
    """
    w = 1 / (variances + tau2)
    return np.asarray(w / w.sum())


def prediction_interval(
    mean: float, *, se: float, tau2: float, df: float, level: float = 0.95
) -> tuple[float, float]:
    """Interval for the true value of a new study: mean -/+ t(df) sqrt(tau2 + se^2).

    Higgins, Thompson and Spiegelhalter, J R Stat Soc A 2009, with df = k - 2; IntHout et al., BMJ
    Open 2016, plead for giving it with every random-effects mean.

    Args:
        mean: pooled mean.
        se: its standard error.
        tau2: variance between studies.
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
