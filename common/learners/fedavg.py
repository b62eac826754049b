"""Federated averaging: Reptile's one-task relative."""

from __future__ import annotations

from common.learners.inner import private_steps
from common.learners.outer import server_step
from common.learners.types import Learner, State
from common.plan import Plan
from common.study import ServerSpec


def fedavg(plan: Plan) -> Learner:
    """FedAvg (McMahan et al. 2017): the mean of the hospitals' weights, by declared size.

    The mean of weights is theta plus the mean delta, so this is Reptile with a server step of 1.
    The study's server table is not used.
    """
    return Learner(
        name="fedavg",
        init=State,
        adapt=private_steps(plan),
        apply=server_step(ServerSpec(optimizer="sgd", learning_rate=1.0, weights="declared")),
    )
