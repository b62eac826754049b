"""FedProx: federated averaging with a pull towards the shared weights."""

from __future__ import annotations

from dataclasses import replace

from common.learners.fedavg import fedavg
from common.learners.inner import private_steps
from common.learners.types import Learner
from common.plan import Plan


def fedprox(plan: Plan) -> Learner:
    """FedProx (Li et al. 2020): each hospital minimises its loss plus mu/2 |phi - theta|^2.

    The pull reads no patient, so the price is FedAvg's.
    """
    adapt = private_steps(plan, proximal=plan.study.learner.proximal)
    return replace(fedavg(plan), name="fedprox", adapt=adapt)
