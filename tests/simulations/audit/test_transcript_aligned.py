"""The transcript of a round with feature alignment: faults in what is said of features."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from common.learner_spec import LearnerSpec
from common.learners import learner_for
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.study import parse_study
from simulations.audit.experiments import Seen
from simulations.audit.subject import Subject
from simulations.audit.transcript import transcript


def plan_for(kind: str = "coral", *, rate: float = 1.0) -> Plan:
    values: dict[str, Any] = {
        "name": "t",
        "cohort": {
            "label": {"classes": ["a", "b"]},
            "features": [{"name": f"x{i}", "range": [-1, 1]} for i in range(4)],
        },
        "model": {"name": "mlp", "hidden": [5]},
        "learner": LearnerSpec(
            name="aligned", learning_rate=0.5, local_steps=2, sampling_rate=rate
        ).model_dump()
        | {"alignment": {"kind": kind, "radius": 2.0}},
        "rounds": {"count": 2},
        "privacy": {"sigma": 1.0, "delta": 1e-4, "clip": 0.5},
    }
    return Plan(parse_study(values, origin="t"), 1.0, 1.0)


PASSED = {"clip": True, "noise": True, "samples": True}


def verdicts(subject: Subject) -> dict[str, bool]:
    outcomes = transcript(subject, records=1, seed=3).run(0.01, Seen())
    return {o.name.removeprefix("A transcript: "): o.passed for o in outcomes}


@pytest.mark.parametrize(("kind", "rate"), [("coral", 1.0), ("coral", 0.3), ("mmd", 1.0)])
def test_a_sound_round_passes(kind: str, rate: float) -> None:
    assert verdicts(Subject(plan_for(kind, rate=rate))) == PASSED


def test_noise_of_the_first_moment_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("common.learners.aligned")
    monkeypatch.setattr(module, "sensitivity", lambda radius, **_: radius)
    assert verdicts(Subject(plan_for())) == PASSED | {"noise": False}


def test_features_that_are_not_drawn_in_are_found() -> None:
    class Far(PrivateModel):
        def moment_sums(self, *args: Any, place: Any, **more: Any) -> Any:
            return super().moment_sums(*args, place=lambda z: z, **more)

    assert not verdicts(Subject(plan_for(), private=Far))["clip"]


def test_moments_of_some_patients_alone_are_found() -> None:
    def of_half(plan: Plan) -> Any:
        sound = learner_for(plan).adapt

        def adapt(model: Any, theta: Any, patients: Any, source: Any) -> Any:
            half = patients.train.select(patients.train.patient[::2])
            return sound(model, theta, patients._replace(train=half), source)

        return adapt

    assert not verdicts(Subject(plan_for(), adapt_for=of_half))["samples"]
