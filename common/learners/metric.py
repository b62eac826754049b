"""What the four metric learners share: one round's steps, by episodes or under references."""

from __future__ import annotations

from common.learners.episodes import episode_steps
from common.learners.inner import private_steps
from common.learners.outer import server_step
from common.learners.types import Learner, State
from common.plan import Plan


def metric_learner(plan: Plan) -> Learner:
    """Return federated steps in a learned space, on the study's own metric.

    Where the study says how many cases a class an episode has (`task.shots`) each step is on such
    episodes, as in the papers; else each step is a noisy step of patients against the hospital's
    references, the private form (`common.learners.references`).
    """
    return Learner(
        name=plan.study.learner.name,
        init=State,
        adapt=episode_steps(plan) if plan.study.learner.is_episodic else private_steps(plan),
        apply=server_step(plan.study.server),
    )
