"""An AUC of few patients, on the scale on which it is nearly normal.

Hanley and McNeil's variance (Radiology 1982) is V = A (1 - A) / m, with n1 ill and n0 well patients
and

    m = n1 n0 / (1 + (n1 - 1) (1 - A) / (2 - A) + (n0 - 1) A / (1 + A)):

their Q1 - A^2 = A (1 - A)^2 / (2 - A) and Q2 - A^2 = A^2 (1 - A) / (1 + A), divided by A (1 - A).
An AUC is thus as uncertain as a proportion of m independent comparisons: 32 for 20 and 20 patients
at .8, but no more than 2 for a single positive near 1. (Below one half the reversed score is meant,
and m is that of 1 - A.) The logit of a proportion needs half a comparison more of either outcome
(Haldane 1956, Anscombe 1956), or perfect order has no logit and no variance, and counts as certain.
So

    A' = (A m + 1/2) / (m + 1),    Var(logit A') = V(A') / (A' (1 - A'))^2.

Half a pair of the n1 n0 pairs would be too little: pairs share patients, and 100 and 200 patients
in perfect order would then have an interval from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from common.metrics import auc_variance


@dataclass(frozen=True)
class AucEstimate:
    """An AUC with what is known of its sampling error.

    Attributes:
        area: The AUC itself, 0 to 1.
        shrunk: The AUC with half a comparison more of either outcome, above 0 and below 1.
        variance: Sampling variance of the AUC, at the shrunk value.
    """

    area: float
    shrunk: float
    variance: float

    @property
    def logit(self) -> float:
        """The shrunk AUC's logit."""
        return float(logit(self.shrunk))

    @property
    def logit_variance(self) -> float:
        """Variance of the logit, by the delta method."""
        return self.variance / (self.shrunk * (1 - self.shrunk)) ** 2

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the ends of the confidence interval, normal on the logit scale.

        It never leaves out the AUC: an end that the shrinkage puts on its wrong side is moved to
        it, so that it ends at 1 where the AUC is 1. In 4,000 simulated samples of normal scores the
        95% interval held the true AUC in 94 to 98% (AUC .8 to .99 with 20 and 20 patients; .8 with
        10 and 30; .9 with 1, 2 and 5 positives of 40).

        >>> few = auc_estimate(1.0, positives=1, negatives=39)
        >>> [round(end, 2) for end in few.interval()]
        [0.12, 1.0]
        """
        half = float(norm.isf((1 - level) / 2)) * self.logit_variance**0.5
        low, high = float(expit(self.logit - half)), float(expit(self.logit + half))
        return min(low, self.area), max(high, self.area)


def auc_estimate(area: float, *, positives: float, negatives: float) -> AucEstimate:
    """Return an AUC with its sampling error.

    Args:
        area: The AUC, 0 to 1.
        positives: How many patients have the disease, above 0; a mass where patients share one.
        negatives: How many have not, likewise.

    >>> found = auc_estimate(0.8, positives=20, negatives=20)
    >>> round(found.shrunk, 4), round(found.variance ** 0.5, 4)
    (0.7908, 0.0724)
    """
    count = _comparisons(area, positives, negatives)
    shrunk = (area * count + 0.5) / (count + 1)
    better = max(shrunk, 1 - shrunk)
    variance = auc_variance(better, positives=positives, negatives=negatives)
    return AucEstimate(area, shrunk, variance)


def _comparisons(area: float, positives: float, negatives: float) -> float:
    """Return m, to how many independent comparisons the pairs amount."""
    a = max(area, 1 - area)
    more, others = max(positives - 1, 0.0), max(negatives - 1, 0.0)
    return positives * negatives / (1 + more * (1 - a) / (2 - a) + others * a / (1 + a))


def mean_estimate(draws: Sequence[AucEstimate]) -> AucEstimate:
    """Return the mean over draws from the same patients: no less uncertain than one draw.

    >>> mean_estimate([AucEstimate(1.0, 0.75, 0.2), AucEstimate(0.0, 0.25, 0.2)])
    AucEstimate(area=0.5, shrunk=0.5, variance=0.2)
    """
    rows = np.array([(draw.area, draw.shrunk, draw.variance) for draw in draws])
    area, shrunk, variance = rows.mean(axis=0).tolist()
    return AucEstimate(area, shrunk, variance)
