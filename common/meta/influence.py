"""Whether one study carries the result: leave-one-out, cumulative pooling, influence, Baujat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from common.meta.heterogeneity import Array, Mask, Places
from common.meta.models import Pooled, pool, weights


@dataclass(frozen=True)
class Influence:
    """What pooling loses with each study, as metafor's `influence` has it; (k,) each.

    Attributes:
        rstudent: the study's distance from the mean of the others, in standard errors of both.
        dffits: how far the mean moves, in standard errors of a fitted value without the study.
        cook: Cook's distance, (mean - mean without it)^2 / se^2.
        covratio: variance of the mean without it over that with it; below 1 it adds noise.
        dfbetas: how far the mean moves, in its standard errors under the tau2 without the study.
        tau2: without the study.
        q: without the study.
        hat: its share of the mean, 0 to 1.
        influential: by metafor's rule, one of |dffits| > 3 sqrt(1 / (k - 1)), a Cook's distance
            beyond the median of chi-squared with 1 degree of freedom, hat > 3 / k, |dfbetas| > 1.
        baujat_x: its part of Q, (y - mean)^2 / (v + tau2).
        baujat_y: its pull on the mean, (mean - mean without it)^2 / se of that^2.
    """

    rstudent: Array
    dffits: Array
    cook: Array
    covratio: Array
    dfbetas: Array
    tau2: Array
    q: Array
    hat: Array
    influential: Mask
    baujat_x: Array
    baujat_y: Array


def leave_one_out(y: Array, v: Array, *, method: str, test: str = "z") -> list[Pooled]:
    """Pool without each study in turn; none where only one is there."""
    if len(y) < 2:
        return []
    rest = [np.arange(len(y)) != i for i in range(len(y))]
    return [pool(y[keep], v[keep], method=method, test=test) for keep in rest]


def cumulative(y: Array, v: Array, order: Places, *, method: str, test: str = "z") -> list[Pooled]:
    """Pool the first study of an order, the first two, and so on.

    Args:
        y: (k,) effects.
        v: (k,) their sampling variances.
        order: (k,) positions of the studies, first to last.
        method: as for `common.meta.models.pool`.
        test: likewise.

    >>> found = cumulative(np.array([1.0, 3.0]), np.ones(2), np.array([1, 0]), method="FE")
    >>> [pooled.mean for pooled in found]
    [3.0, 2.0]
    """
    firsts = [order[: n + 1] for n in range(len(order))]
    return [pool(y[first], v[first], method=method, test=test) for first in firsts]


def influence(y: Array, v: Array, *, method: str) -> Influence | None:
    """Return how each study bears on the mean (Viechtbauer and Cheung, Res Synth Methods 2010).

    The Baujat plot (Baujat et al., Stat Med 2002) has a study's part in the heterogeneity across,
    its pull on the mean up: what stands far to the right and high is worth a second look.

    Args:
        y: (k,) effects.
        v: (k,) their sampling variances.
        method: as for `common.meta.models.pool`; the standard errors are the usual ones.

    Returns:
        The diagnostics; None below three studies.
    """
    k = len(y)
    if k < 3:
        return None
    whole, without = pool(y, v, method=method), leave_one_out(y, v, method=method)
    mean, se, tau2, q = (
        np.array([getattr(one, name) for one in without]) for name in ("mean", "se", "tau2", "q")
    )
    hat, moved = weights(v, whole.tau2), whole.mean - mean
    as_before = np.array([(1 / (v + one)).sum() ** -0.5 for one in tau2])  # all studies, that tau2
    dffits, cook, dfbetas = (
        moved / np.sqrt(hat * (tau2 + v)),
        (moved / whole.se) ** 2,
        moved / as_before,
    )
    influential = (
        (np.abs(dffits) > 3 * np.sqrt(1 / (k - 1)))
        | (chi2.cdf(cook, 1) > 0.5)
        | (hat > 3 / k)
        | (np.abs(dfbetas) > 1)
    )
    return Influence(
        rstudent=(y - mean) / np.sqrt(v + se**2 + tau2),
        dffits=dffits,
        cook=cook,
        covratio=(se / whole.se) ** 2,
        dfbetas=dfbetas,
        tau2=tau2,
        q=q,
        hat=hat,
        influential=influential,
        baujat_x=(y - whole.mean) ** 2 / (v + whole.tau2),
        baujat_y=(moved / se) ** 2,
    )
