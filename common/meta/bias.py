"""Whether small studies tell another story: Egger's and Begg's tests, trim and fill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, norm, t

from common.meta.heterogeneity import Array, mixed_model
from common.meta.models import Pooled, pool

FEWEST = 3  # studies for a regression of two coefficients
_ROUNDING = 1e-12  # effects that differ from their mean by this share of their size are on it
FEW = 10  # below which the tests have hardly any power (Cochrane Handbook 13.3.5.4)


@dataclass(frozen=True)
class Egger:
    """Egger's regression.

    Attributes:
        intercept: of standardised effects on precision; 0 where the funnel is symmetric.
        t: its statistic, on k - 2 degrees of freedom.
        p: two-sided.
        z: of the standard error as a moderator of a random-effects model (metafor's default).
        z_p: two-sided.
    """

    intercept: float
    t: float
    p: float
    z: float | None
    z_p: float | None


def egger(y: Array, v: Array, *, method: str = "REML") -> Egger | None:
    """Test the funnel's symmetry by Egger's regression (Egger et al., BMJ 1997).

    The classical form regresses y / se on 1 / se by least squares; its intercept is the coefficient
    of se in the regression of y on se with weights 1 / v, by which it is computed. Beside it the
    same with a between-study variance (Sterne and Egger 2005; metafor's `regtest` default), which
    holds its level better where studies differ.

    Args:
        y: (k,) effects.
        v: (k,) their sampling variances.
        method: of the between-study variance in the second form; `PM` is read as `REML` there.

    Returns:
        The test; None below three studies or where all standard errors are equal.

    >>> round(egger(np.array([2.0, 1.5, 1.2, 1.0]), np.array([1.0, 0.5, 0.2, 0.1])).intercept, 3)
    1.399
    """
    k, se = len(y), np.sqrt(v)
    if k < FEWEST or np.ptp(se) < 1e-12 * se.max():
        return None
    design = np.column_stack([np.ones(k), se])
    _, beta, cov = mixed_model(y, v, design, method="FE")
    spread = float(((y - design @ beta) ** 2 / v).sum() / (k - 2))
    if spread <= np.finfo(float).eps:
        return None  # every effect lies on the line: no error to hold the intercept against
    statistic = float(beta[1] / np.sqrt(spread * cov[1, 1]))
    _, mixed, mixed_cov = mixed_model(y, v, design, method="REML" if method == "PM" else method)
    z = float(mixed[1] / np.sqrt(mixed_cov[1, 1]))
    return Egger(
        float(beta[1]),
        statistic,
        float(2 * t.sf(abs(statistic), k - 2)),
        z,
        float(2 * norm.sf(abs(z))),
    )


def begg(y: Array, v: Array) -> tuple[float, float] | None:
    """Test the funnel's symmetry by ranks (Begg and Mazumdar, Biometrics 1994).

    Kendall's tau between the standardised deviations (y - mean) / sqrt(v - 1 / sum(1/v)) from the
    fixed-effect mean and the variances; its p-value is exact where there are no ties, as metafor's.

    Returns:
        Tau and its p-value; None below three studies or where there is nothing to rank.
    """
    if len(y) < FEWEST:
        return None
    w = 1 / v
    deviations = (y - w @ y / w.sum()) / np.sqrt(v - 1 / w.sum())
    found = kendalltau(deviations, v)
    return None if np.isnan(found.statistic) else (float(found.statistic), float(found.pvalue))


@dataclass(frozen=True)
class Filled:
    """Trim and fill.

    Attributes:
        k0: studies estimated to be missing.
        side: of the funnel on which they are, `left` or `right`.
        pooled: with them.
        y: (k0,) their effects.
        v: (k0,) their variances.
    """

    k0: int
    side: str
    pooled: Pooled
    y: Array
    v: Array


def trim_and_fill(
    y: Array, v: Array, *, method: str = "REML", test: str = "z", estimator: str = "L0"
) -> Filled | None:
    """Add the studies that a symmetric funnel would have (Duval and Tweedie, Biometrics 2000).

    The k0 most extreme studies of one side are taken away, the rest pooled, the effects centred
    there, and k0 estimated anew from the ranks of their absolute values until it stays: by L0 =
    (4 S - k (k + 1)) / (2 k - 1), where S adds up the ranks on that side, or by R0, one less than
    the run of highest ranks on it. Mirror images of the k0 are then pooled with all. The missing
    side is the one that the regression on the standard error points from. It shows how far one
    kind of missing studies would move the mean; it corrects nothing.

    Args:
        y: (k,) effects.
        v: (k,) their sampling variances.
        method: as for `common.meta.models.pool`, while trimming and after filling.
        test: likewise.
        estimator: `L0`, metafor's default, or `R0`.

    Returns:
        What was filled, with k0 = 0 where nothing is missing; None below three studies, or where
        the number goes round in circles.

    Raises:
        ValueError: if the estimator is unknown.
    """
    if estimator not in {"L0", "R0"}:
        raise ValueError(f"estimator is {estimator!r}: use L0 or R0")
    k = len(y)
    if k < FEWEST:
        return None
    tested = egger(y, v, method=method)
    sign = -1.0 if tested is not None and (tested.z or 0.0) < 0 else 1.0
    order = np.argsort(sign * y, kind="stable")
    flipped, spread = sign * y[order], v[order]
    size, k0 = float(np.abs(y).max()), 0
    for _ in range(100):
        rest = slice(0, k - k0)
        centre = pool(flipped[rest], spread[rest], method=method).mean
        k0, before = _missing(flipped - centre, size, estimator), k0
        if k0 == before:
            break
    else:
        return None
    mirrored = sign * (2 * centre - flipped[k - k0 :])
    filled = pool(
        np.concatenate([y, mirrored]),
        np.concatenate([v, spread[k - k0 :]]),
        method=method,
        test=test,
    )
    return Filled(k0, "left" if sign > 0 else "right", filled, mirrored, spread[k - k0 :])


def _missing(centred: Array, scale: float, estimator: str) -> int:
    """Estimate how many studies are missing below, from effects about their centre."""
    k = len(centred)
    centred = np.where(np.abs(centred) < _ROUNDING * scale, 0.0, centred)
    ranks = np.empty(k)
    ranks[np.argsort(np.abs(centred), kind="stable")] = np.arange(1, k + 1)
    if estimator == "R0":
        k0 = k - max(ranks[centred < 0], default=0) - 1
    else:
        k0 = (4 * ranks[centred > 0].sum() - k * (k + 1)) / (2 * k - 1)
    return int(min(max(0, round(k0)), k - 1))
