"""Reptile: move the shared weights towards what each hospital's adaptation made of them."""

from __future__ import annotations

from common.learners.inner import private_steps
from common.learners.outer import server_step
from common.learners.types import Learner, State
from common.plan import Plan


def reptile(plan: Plan) -> Learner:
    """Reptile over hospitals (Nichol, Achiam and Schulman 2018, "On first-order meta-learning").

    A task is a hospital. theta <- theta + beta * mean_i (phi_i - theta), where phi_i is K private
    steps from theta on hospital i; the study's server table gives beta, the optimiser and the
    weights. For K = 1 it is joint training; for K > 1 its expected step also favours weights from
    which one more step helps every hospital (section 5 of the paper).
    """
    return Learner(
        name="reptile",
        init=State,
        adapt=private_steps(plan),
        apply=server_step(plan.study.server),
    )
