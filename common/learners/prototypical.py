"""Prototypical networks: a case belongs to the class whose mean it lies next to."""

from __future__ import annotations

from common.learners.metric import metric_learner
from common.learners.types import Learner
from common.plan import Plan


def prototypical(plan: Plan) -> Learner:
    """Prototypical networks over hospitals (Snell, Swersky and Zemel 2017).

    p(class c | x) is the softmax of minus the distance of f(x) to the class's mean, the squared
    Euclidean one unless the study says another. A hospital's classes are its own and no head is
    shared, so hospitals with different diseases learn one f; a new hospital needs the means of a
    few cases and no step.

    Private form: the means are released with noise first, and a patient's loss against them is the
    patient's alone (`common.learners.references` has the guarantees).
    """
    return metric_learner(plan)
