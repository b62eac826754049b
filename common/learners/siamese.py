"""Siamese networks: two cases of one class lie close together, two of different ones do not."""

from __future__ import annotations

from common.learners.metric import metric_learner
from common.learners.types import Learner
from common.plan import Plan


def siamese(plan: Plan) -> Learner:
    """Siamese networks with the contrastive loss over hospitals (Hadsell, Chopra and LeCun 2006).

    `metric.form` takes the distance or its square; `common.objectives.contrastive` has both.

    Private form: a pair is two patients, so that one patient is in as many pairs as there are
    others. Here the second of a pair is a released reference of a class.
    """
    return metric_learner(plan)
