"""Algorithms as values: how a hospital adapts the shared weights, how the server takes it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from common.learners.aligned import aligned
from common.learners.anil import anil
from common.learners.averaging import averaged
from common.learners.fedavg import fedavg
from common.learners.fedprox import fedprox
from common.learners.fedrep import fedrep
from common.learners.fomaml import fomaml
from common.learners.hypernetwork import hypernetwork
from common.learners.maml import maml
from common.learners.matching import matching
from common.learners.metanet import metanet
from common.learners.outer import decaying
from common.learners.problems import over_problems
from common.learners.prototypical import prototypical
from common.learners.references import in_space
from common.learners.reptile import reptile
from common.learners.siamese import siamese
from common.learners.triplet import triplet
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
    "prototypical": prototypical,
    "matching": matching,
    "siamese": siamese,
    "triplet": triplet,
    "hypernetwork": hypernetwork,
    "metanet": metanet,
    "aligned": aligned,
}


def learner_for(plan: Plan) -> Learner:
    """Return the learner that the plan's study names, averaging over rounds as the study says."""
    study = plan.study
    learner, spec = LEARNERS[study.learner.name](plan), study.learner
    if spec.metric is not None:
        learner = in_space(plan, learner)
    if spec.task is not None and not spec.is_episodic:
        learner = over_problems(plan, learner)
    rounds = study.rounds.count
    apply = decaying(learner.apply, study.server, rounds=rounds)
    apply = averaged(apply, study.server, rounds=rounds)
    return replace(learner, apply=apply)
