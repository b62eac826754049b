"""Algorithms as values: how a hospital adapts the shared weights, how the server takes it in."""

from __future__ import annotations

from collections.abc import Callable

from common.learners.fedavg import fedavg
from common.learners.fedprox import fedprox
from common.learners.fomaml import fomaml
from common.learners.maml import maml
from common.learners.reptile import reptile
from common.learners.types import Learner
from common.plan import Plan

LEARNERS: dict[str, Callable[[Plan], Learner]] = {
    "reptile": reptile,
    "fedavg": fedavg,
    "fedprox": fedprox,
    "fomaml": fomaml,
    "maml": maml,
}


def learner_for(plan: Plan) -> Learner:
    """Return the learner that the plan's study names."""
    return LEARNERS[plan.study.learner.name](plan)
