"""The transcript of a round: a fault in an inner step, which no delta shows, is found."""

from __future__ import annotations

import math
from typing import Any

import pytest

from common.learners import learner_for
from common.learners.adaptation import adapt_locally
from common.learners.head import head_of
from common.learners.types import Adapt, Patients
from common.models import build, load_params
from common.params import Params, add, subtract
from common.plan import Plan, compile_study
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source
from common.study import AdaptationSpec, parse_study
from simulations.audit.experiments import Seen
from simulations.audit.subject import Subject
from simulations.audit.transcript import transcript


def plan_for(name: str) -> Plan:
    values: dict[str, Any] = {
        "name": "t",
        "cohort": {
            "label": {"classes": ["a", "b"]},
            "features": [{"name": f"x{i}", "range": [-1, 1]} for i in range(4)],
        },
        "model": {"name": "mlp", "hidden": [5]},
        "learner": {"name": name, "learning_rate": 0.5, "local_steps": 2},
        "rounds": {"count": 2},
        "privacy": {"sigma": 1.0, "delta": 1e-4, "clip": 0.5},
    }
    return compile_study(parse_study(values, origin="t"))


def verdicts(subject: Subject, *, records: int = 1) -> dict[str, bool]:
    seen = Seen()
    outcomes = transcript(subject, records=records, seed=3).run(0.01, seen)
    return {o.name.removeprefix("A transcript: "): o.passed for o in outcomes}


@pytest.mark.parametrize("name", ["reptile", "fomaml", "maml", "fedrep", "anil"])
def test_a_sound_learner_passes(name: str) -> None:
    records = 2 if name == "maml" else 1
    assert verdicts(Subject(plan_for(name)), records=records) == {"clip": True, "noise": True}


def with_full_steps_on_the_support(plan: Plan) -> Adapt:
    """An inner loop that takes plain gradient steps, and then a sound query."""
    sound = learner_for(plan).adapt

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        slope = model.clipped_sum(theta, patients.train, clip=math.inf)
        return sound(model, add(theta, slope, scale=-0.1), patients, source)

    return adapt


def with_a_head_fitted_freely(plan: Plan) -> Adapt:
    """FedRep with a head that is trained without noise before the body's steps."""
    sound = learner_for(plan).adapt

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        module = build(plan.study)
        load_params(module, theta)
        spec = AdaptationSpec(prior=0.01, max_steps=5)
        fitted = adapt_locally(module, theta, patients.train, spec)
        start = {**theta, **{k: fitted[k] for k in head_of(theta)}}
        return add(sound(model, start, patients, source), subtract(start, theta))

    return adapt


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("fomaml", with_full_steps_on_the_support),
        ("maml", with_full_steps_on_the_support),
        ("fedrep", with_a_head_fitted_freely),
        ("anil", with_a_head_fitted_freely),
    ],
)
def test_steps_that_are_not_private_are_found(name: str, broken: Any) -> None:
    assert not all(verdicts(Subject(plan_for(name), adapt_for=broken)).values())


def test_products_of_a_loose_clip_are_found() -> None:
    class Loose(PrivateModel):
        def clipped_products(self, *args: Any, clip: float, **more: Any) -> Params:
            return super().clipped_products(*args, clip=50 * clip, **more)

    found = verdicts(Subject(plan_for("maml"), private=Loose))
    assert found == {"clip": False, "noise": True}


def test_an_answer_without_noise_is_found() -> None:
    """One step too many that adds no noise: the answers are more than the noise vectors."""

    def broken(plan: Plan) -> Adapt:
        sound = learner_for(plan).adapt

        def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
            bare = model.clipped_sum(theta, patients.train, clip=plan.clip)
            return add(sound(model, theta, patients, source), bare, scale=-0.1)

        return adapt

    found = verdicts(Subject(plan_for("maml"), adapt_for=broken))
    assert found == {"clip": True, "noise": False}
