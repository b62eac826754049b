"""Matching networks: a case belongs to the classes of those it attends to."""

from __future__ import annotations

from common.learners.metric import metric_learner
from common.learners.types import Learner
from common.plan import Plan


def matching(plan: Plan) -> Learner:
    """Matching networks over hospitals (Vinyals et al. 2016).

    p(class c | x) = sum_{i of c} a(x, x_i), with a the softmax over the support set of the cosine,
    divided by the study's temperature; with `metric.context` case and support set are placed in
    view of each other first (`common.context`).

    Private form: a labelled case of its own cannot leave, so the support set is released means of
    groups of patients, `metric.references` of them a class, and a keyed hash says who is in which
    (`common.privacy.class_sums`). With one a class it is attention over class means.
    """
    return metric_learner(plan)
