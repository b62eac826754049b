"""Algorithms as values: how a hospital adapts the shared weights, how the server takes it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from common.learners.anil import anil
from common.learners.averaging import averaged
from common.learners.fedavg import fedavg
from common.learners.fedprox import fedprox
from common.learners.fedrep import fedrep
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
    "fedrep": fedrep,
    "anil": anil,
}


def learner_for(plan: Plan) -> Learner:
    """Return the learner that the plan's study names, averaging over rounds as the study says."""
    study = plan.study
    learner = LEARNERS[study.learner.name](plan)
    apply = averaged(learner.apply, study.server, rounds=study.rounds.count)
    return replace(learner, apply=apply)
