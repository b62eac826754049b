"""How well an attack tells members from others: its ROC curve and its hits at few false alarms.

Guarantees
    The area under the curve says how an attack does on the average patient; a patient is harmed by
    the attack that is certain of a few (Carlini et al., "Membership inference attacks from first
    principles", S&P 2022), so the true-positive rate is reported at false-positive rates of 1% and
    0.1%. The threshold is the lowest with at most that share of false alarms among the non-members.
    It looks at no member, so the members it finds are binomial given it, and Clopper and Pearson's
    interval is exact, if members are scored independently of each other. Scores of one run share
    its model, so the interval is of patients and not of runs.

    With n non-members and no false alarm at all, the false-positive rate may still be up to
    1 - .05^(1/n), about 3/n (95% confidence). A rate f is spoken of only where this is at most f:
    n >= ln .05 / ln(1 - f), 299 for 1% and 2995 for 0.1%. With fewer it is refused.

    ================================  ========================================
    scores                            answer
    ================================  ========================================
    too few non-members               GrandroundsError with the number needed
    no member                         GrandroundsError
    NaN                               ValueError
    ties                              found or spared together
    all equal                         nobody is found: rate 0
    ================================  ========================================
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from common.auditing.intervals import clopper_pearson
from common.errors import GrandroundsError
from common.metrics import Array
from common.metrics import auc as _auc

RATES = (0.01, 0.001)
"""False-positive rates at which an attack is reported."""

_CONFIDENCE = 0.05


@dataclass(frozen=True)
class Roc:
    """A ROC curve: points from (0, 0) to (1, 1), one for each distinct score, highest first."""

    false_positive: Array
    true_positive: Array


@dataclass(frozen=True)
class Hits:
    """What an attack finds at a false-positive rate; rates as shares, intervals of 95%.

    Attributes:
        at: The false-positive rate asked for.
        tpr: Share of the members found.
        tpr_low: Lower end of its interval.
        tpr_high: Upper end.
        fpr: Share of the non-members accused, at most `at`.
        members: How many were scored.
        others: How many non-members were scored.
    """

    at: float
    tpr: float
    tpr_low: float
    tpr_high: float
    fpr: float
    members: int
    others: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def roc(members: Array, others: Array) -> Roc:
    """Return the curve of an attack's scores.

    Args:
        members: (members,) scores of patients who were trained on; higher is more likely one.
        others: (others,) scores of patients who were not.

    Raises:
        GrandroundsError: nobody on one side.
        ValueError: a score is not a number.

    >>> roc(np.array([2.0, 1.0]), np.array([1.0, 0.0])).true_positive
    array([0. , 0.5, 1. , 1. ])
    """
    inside, outside = _checked(members, others)
    levels = np.unique(np.concatenate([inside, outside]))[::-1]

    def share(scores: Array) -> Array:
        at_least = len(scores) - np.searchsorted(np.sort(scores), levels, side="left")
        return np.concatenate([[0.0], at_least / len(scores)])

    return Roc(false_positive=share(outside), true_positive=share(inside))


def area(members: Array, others: Array) -> float:
    """Return the area under the curve; arguments and errors as `roc`.

    >>> area(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
    0.875
    """
    inside, outside = _checked(members, others)
    scores = np.concatenate([inside, outside])
    found = _auc(scores, np.arange(len(scores)) < len(inside), np.ones(len(scores)))
    assert found is not None
    return found


def others_needed(at: float) -> int:
    """Return how many non-members it takes to speak of a false-positive rate.

    >>> others_needed(.01), others_needed(.001)
    (299, 2995)
    """
    if not 0 < at < 1:
        raise ValueError(f"at is {at}; use a rate between 0 and 1")
    return math.ceil(math.log(_CONFIDENCE) / math.log1p(-at))


def hits(members: Array, others: Array, *, at: float) -> Hits:
    """Return the true-positive rate at a false-positive rate, with its 95% interval.

    Args:
        members: As in `roc`.
        others: As in `roc`.
        at: The false-positive rate, in (0, 1).

    Raises:
        GrandroundsError: too few non-members to speak of that rate, or no member.
        ValueError: a score is not a number, or `at` is out of range.

    >>> found = hits(np.arange(90.0, 110.0), np.arange(400.0) / 4, at=.01)
    >>> found.tpr, found.fpr
    (0.55, 0.01)
    """
    inside, outside = _checked(members, others)
    needed = others_needed(at)
    if len(outside) < needed:
        raise GrandroundsError(
            f"{len(outside)} patients who were not trained on are too few to speak of a "
            f"false-positive rate of {at:.3g}",
            remedy=f"score at least {needed} of them, or report the area under the curve alone",
        )
    spared = math.floor(at * len(outside) * (1 + 1e-12))  # the rounding of .01 * 300
    threshold = np.sort(outside)[len(outside) - spared - 1]  # above it lie at most that many
    found = clopper_pearson(int((inside > threshold).sum()), trials=len(inside), p=_CONFIDENCE)
    assert found.value is not None
    return Hits(
        at=at,
        tpr=found.value,
        tpr_low=found.low,
        tpr_high=found.high,
        fpr=float((outside > threshold).mean()),
        members=len(inside),
        others=len(outside),
    )


def _checked(members: Array, others: Array) -> tuple[Array, Array]:
    """Return both as flat float64; refuse an empty side and what is not a number."""
    sides = []
    for name, scores in (("members", members), ("others", others)):
        values = np.asarray(scores, dtype=np.float64).reshape(-1)
        if not values.size:
            raise GrandroundsError(
                f"an attack on membership has no scores of {name}",
                remedy="score patients who were trained on and patients who were not",
            )
        if np.isnan(values).any():
            raise ValueError(f"{name} has {int(np.isnan(values).sum())} scores that are no number")
        sides.append(values)
    return sides[0], sides[1]
