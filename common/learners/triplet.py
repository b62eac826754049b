"""Triplets: a case lies closer to its own class than to any other, by a margin."""

from __future__ import annotations

from common.learners.metric import metric_learner
from common.learners.types import Learner
from common.plan import Plan


def triplet(plan: Plan) -> Learner:
    """The triplet loss over hospitals (Schroff, Kalenichenko and Philbin 2015).

    Private form: the positive and the negative of an anchor are released references of classes, the
    negative a semi-hard one; then a triplet has one patient (`common.objectives.triplet`).
    """
    return metric_learner(plan)
