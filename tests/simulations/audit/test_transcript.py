"""The transcript of a round: a fault in an inner step, which no delta shows, is found."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch

from common.cohort.parts import Part
from common.learners import inner, learner_for
from common.learners.adaptation import adapt_locally
from common.learners.types import Adapt, Patients
from common.models import build, load_params
from common.params import Params, add, head_of, subtract
from common.plan import Plan, compile_study
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source
from common.privacy.sampling import sample_patients
from common.study import AdaptationSpec, parse_study
from simulations.audit.experiments import Seen
from simulations.audit.subject import Subject
from simulations.audit.transcript import samples_off, transcript


def plan_for(name: str, *, rate: float = 1.0) -> Plan:
    values: dict[str, Any] = {
        "name": "t",
        "cohort": {
            "label": {"classes": ["a", "b"]},
            "features": [{"name": f"x{i}", "range": [-1, 1]} for i in range(4)],
        },
        "model": {"name": "mlp", "hidden": [5]},
        "learner": {
            "name": name,
            "learning_rate": 0.5,
            "local_steps": 2,
            "sampling_rate": rate,
        },
        "rounds": {"count": 2},
        "privacy": {"sigma": 1.0, "delta": 1e-4, "clip": 0.5},
    }
    return compile_study(parse_study(values, origin="t"))


PASSED = {"clip": True, "noise": True, "samples": True}


def verdicts(subject: Subject, *, records: int = 1) -> dict[str, bool]:
    seen = Seen()
    outcomes = transcript(subject, records=records, seed=3).run(0.01, seen)
    return {o.name.removeprefix("A transcript: "): o.passed for o in outcomes}


@pytest.mark.parametrize("name", ["reptile", "fomaml", "maml", "fedrep", "anil"])
def test_a_sound_learner_passes(name: str) -> None:
    records = 2 if name == "maml" else 1
    assert verdicts(Subject(plan_for(name)), records=records) == PASSED


def in_a_space(name: str) -> Plan:
    metric = {"loss": "triplet", "radius": 2.0}
    values = plan_for(name).study.model_dump(mode="json")
    values["learner"] |= {"metric": metric}
    return compile_study(parse_study(values, origin="t"))


@pytest.mark.parametrize("name", ["reptile", "fomaml"])
def test_a_sound_learner_in_a_space_passes(name: str) -> None:
    assert verdicts(Subject(in_a_space(name))) == PASSED


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("common.learners.references.sensitivity", "noise"),  # half the noise
        ("common.privacy.engine.within", "clip"),  # places as far out as they like
    ],
)
def test_a_fault_in_the_references_is_found(
    fault: str, test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"sensitivity": lambda radius: radius / 2, "within": lambda z, radius: z}
    monkeypatch.setattr(fault, broken[fault.rpartition(".")[2]])
    assert not verdicts(Subject(in_a_space("reptile")))[test]


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
    assert found == PASSED | {"clip": False}


def test_an_answer_without_noise_is_found() -> None:
    """One step too many that adds no noise: the answers are more than the noise vectors."""

    def broken(plan: Plan) -> Adapt:
        sound = learner_for(plan).adapt

        def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
            bare = model.clipped_sum(theta, patients.train, clip=plan.clip)
            return add(sound(model, theta, patients, source), bare, scale=-0.1)

        return adapt

    found = verdicts(Subject(plan_for("maml"), adapt_for=broken))
    assert found["noise"] is False


@pytest.mark.parametrize("name", ["fomaml", "maml", "fedrep", "anil"])
def test_too_little_noise_on_what_stays_is_found(name: str) -> None:
    """Fault it is for: an inner loop with a tenth less noise under a query that has all of its."""

    def broken(plan: Plan) -> Adapt:
        return learner_for(replace(plan, sigma=0.9 * plan.sigma)).adapt

    found = verdicts(Subject(plan_for(name), adapt_for=broken))
    assert found["noise"] is False


def test_too_little_noise_on_products_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("common.learners.maml")  # the package has a function of that name
    monkeypatch.setattr(module, "noise_scale", lambda *a, **k: 0.9 * inner.noise_scale(*a, **k))
    assert verdicts(Subject(plan_for("maml")))["noise"] is False


@pytest.mark.parametrize("name", ["reptile", "fomaml", "maml", "fedrep", "anil"])
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_samples_are_those_that_the_coins_chose(name: str, rate: float) -> None:
    assert samples_off(Subject(plan_for(name, rate=rate)), seed=1) == 0


def test_a_support_sampled_more_often_than_accounted_is_found() -> None:
    """No delta shows it: the query is sampled as it should be."""

    def broken(plan: Plan) -> Adapt:
        from common.learners import fomaml as module

        def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
            calls = 0

            def draw(plan: Plan, part: Any, source: Source) -> Any:
                nonlocal calls
                calls += 1
                rate = 0.2 if calls <= plan.study.learner.local_steps else 0.05
                return sample_patients(part, source, rate=rate, max_records=1)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys.modules[module.__module__], "draw", draw)
                return learner_for(plan).adapt(model, theta, patients, source)

        return adapt

    sound, wrong = Subject(plan_for("fomaml", rate=0.05)), plan_for("fomaml", rate=0.05)
    assert samples_off(sound, seed=1) == 0
    assert samples_off(Subject(wrong, adapt_for=broken), seed=1) > 3


def test_products_about_another_sample_are_found() -> None:
    """A second sample for the second query would be a mechanism that nobody paid for."""

    def broken(plan: Plan) -> Adapt:
        sound = learner_for(plan).adapt

        def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
            products = model.clipped_products

            def other(params: Params, batch: Part, **more: Any) -> Params:
                return products(params, batch.select(torch.arange(len(batch.y))), **more)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(model, "clipped_products", other)
                return sound(model, theta, patients, source)

        return adapt

    assert math.isinf(samples_off(Subject(plan_for("maml"), adapt_for=broken), seed=1))
