"""Learned spaces: what a patient adds to a reference, what a round costs, and that spaces learn."""

import math

import dp_accounting
import pytest
import torch
from dp_accounting import pld

from common.cohort.parts import Part
from common.errors import StudyError
from common.learners import learner_for
from common.learners.adaptation import adapt_locally
from common.learners.references import exact
from common.learners.types import Contribution, Patients
from common.models import build, load_params, params_of, predict, trained
from common.params import head_of
from common.plan import Plan, compile_study
from common.privacy import accounting
from common.privacy.class_sums import class_sums, count_weight, sensitivity
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.references import ABSENT
from common.study import parse_study


def study(*, privacy=None, rounds=2, own=False, ways=3, records=1, **learner):
    label = {"own": True, "ways": ways} if own else {"classes": ["a", "b", "c"][:ways]}
    values = {
        "name": "test",
        "cohort": {
            "label": label,
            "features": [{"name": f"x{i}", "range": [-1, 1]} for i in range(4)],
            "train_fraction": 0.5,
            "max_records": records,
        },
        "model": {"name": "mlp", "hidden": [8]},
        "learner": {"name": "prototypical", "learning_rate": 0.5, "local_steps": 2, **learner},
        "rounds": {"count": rounds},
    }
    return parse_study(values | ({"privacy": privacy} if privacy else {}), origin="test")


def people(n=60, *, seed=0, classes=3):
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centers = torch.randn(classes, 4, generator=rng)
    x = centers[y] + 0.3 * torch.randn(n, 4, generator=rng)
    draws = torch.rand(n, 2, generator=rng, dtype=torch.float64)
    return Part(x, y, torch.arange(n), n, draws)


PRIVATE = {"sigma": 2.0, "delta": 1e-4, "clip": 1.0}


@pytest.mark.parametrize("name", ["prototypical", "matching", "siamese", "triplet"])
def test_rounds_in_a_space_let_cases_be_told_apart(name):
    plan = compile_study(study(rounds=15, name=name))
    learner, model = learner_for(plan), PrivateModel(build(plan.study, seed=1))
    patients, source = Patients(people(), 120), SeededSource(0)
    state = learner.init(params_of(build(plan.study, seed=1)))
    for _ in range(plan.study.rounds.count):
        delta = learner.adapt(model, state.params, patients, source)
        body = learner.shared(delta)
        state = learner.apply(state, [Contribution(120, body)])
    module = build(plan.study)
    load_params(module, {**state.params, **exact(module, state.params, patients.train)})
    unseen = people(seed=0, n=90)
    found = (predict(module, unseen.x).argmax(1) == unseen.y).double().mean()
    assert found > 0.9
    assert body.keys() == state.params.keys() - head_of(state.params)


def test_the_whole_body_is_shared_and_the_references_are_not():
    plan = compile_study(study())
    everything = params_of(build(plan.study))
    moves = trained(plan.study, everything)
    assert learner_for(plan).shared(moves).keys() == everything.keys() - head_of(everything)


@pytest.mark.parametrize(
    "record", [[1.0] * 4, [1e6] * 4, [math.nan] * 4, [math.inf] * 4, [0.0] * 4]
)
@pytest.mark.parametrize("times", [1, 100])
def test_one_patient_moves_sums_and_counts_by_at_most_the_stated_bound(record, times):
    radius, rng = 3.0, torch.Generator().manual_seed(1)
    with_them = people(20)
    rows = torch.tensor([record]).repeat(times, 1)
    who = torch.full((times,), 20)
    classes = torch.arange(times) % 3
    more = Part(
        torch.cat([with_them.x, rows]),
        torch.cat([with_them.y, classes]),
        torch.cat([with_them.patient, who]),
        21,
        torch.rand(21, 2, generator=rng, dtype=torch.float64),
    )
    less = Part(with_them.x, with_them.y, with_them.patient, 20, more.draws[:20])

    def sums(part):
        length = part.x.norm(dim=1, keepdim=True)
        places = torch.where(length > radius, part.x * radius / length, part.x)
        weight = count_weight(radius)
        found = class_sums(places.double(), part, classes=3, slots=2, weight=weight)
        return torch.cat([found["sums"].flatten(), found["counts"].flatten()])

    moved = (sums(more) - sums(less)).norm()
    assert moved <= sensitivity(radius) * (1 + 1e-9)
    if record == [1e6] * 4 and times == 1:
        assert moved == pytest.approx(math.sqrt(radius**2 + (radius / 2) ** 2))  # it is reached


def test_a_round_costs_its_steps_and_one_more_for_the_references():
    rules = study(privacy=PRIVATE, rounds=3, sampling_rate=0.5, metric={"radius": 1.0})
    step = dp_accounting.PoissonSampledDpEvent(0.5, dp_accounting.GaussianDpEvent(2.0))
    oracle = pld.PLDAccountant().compose(dp_accounting.SelfComposedDpEvent(step, 3 * (2 + 1)))
    plan = compile_study(rules)
    assert plan.epsilon_after(3) == pytest.approx(oracle.get_epsilon(1e-4), rel=1e-6)


def test_problems_a_round_are_paid_for_one_by_one():
    rules = study(privacy=PRIVATE, metric={"radius": 1.0}, task={"kind": "pairs", "per_round": 3})
    steps = sum(event.count for event in compile_study(rules).training_prices())
    assert steps == 3 * (2 + 1)


def test_the_noise_on_references_is_sigma_times_what_one_patient_adds():
    radius, sigma = 2.0, 5.0
    plan = Plan(study(privacy=PRIVATE, metric={"radius": radius}), sigma, 1.0)
    learner, model = learner_for(plan), PrivateModel(build(plan.study, seed=1))
    theta = params_of(build(plan.study, seed=1))
    part = people(3_000)
    found = []
    for seed in range(12):
        delta = learner.adapt(model, theta, Patients(part, 6_000), SeededSource(seed))
        found.append(delta[max(head_of(theta))].flatten())
    spread = torch.stack(found).std(dim=0).mean()
    # Of a mean over 1,000 patients; the count's own noise adds little.
    assert float(spread) == pytest.approx(sigma * sensitivity(radius) / 1_000, rel=0.2)


def test_classes_a_hospital_does_not_have_are_never_the_answer():
    plan = compile_study(study(own=True, ways=5))
    learner, model = learner_for(plan), PrivateModel(build(plan.study, seed=1))
    theta = params_of(build(plan.study, seed=1))
    delta = learner.adapt(model, theta, Patients(people(), 120, 3), SeededSource(0))
    biases = theta[min(head_of(theta))] + delta[min(head_of(theta))]
    assert biases.tolist() == [0.0, 0.0, 0.0, ABSENT, ABSENT]
    module = build(plan.study)
    load_params(module, {k: theta[k] + delta[k] for k in theta})
    assert predict(module, people().x)[:, 3:].max() < 1e-9


def test_local_adaptation_of_a_space_is_the_hospitals_own_references():
    plan = compile_study(study())
    module, part = build(plan.study, seed=1), people()
    theta = params_of(module)
    found = adapt_locally(module, theta, part, plan.study.adaptation)
    means = torch.stack([module.features(part.x[part.y == c]).mean(0) for c in range(3)])
    assert torch.allclose(found[max(head_of(theta))][:, 0], means, atol=1e-5)
    assert all(torch.equal(found[k], theta[k]) for k in theta.keys() - head_of(theta))


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"privacy": PRIVATE}, "learner.metric.radius is not given"),
        (
            {"privacy": PRIVATE, "metric": {"radius": 1.0}, "task": {"kind": "pairs", "shots": 2}},
            "learner.task.shots is 2",
        ),
        ({"task": {"kind": "rotations"}}, "no pictures"),
        ({"metric": {"loss": "triplet"}}, "metric.loss is 'triplet'"),
        ({"name": "fedrep", "metric": {}}, "metric is given with learner 'fedrep'"),
        ({"optimizer": "adam", "name": "maml"}, "optimizer is 'adam'"),
    ],
)
def test_what_has_no_bound_or_no_meaning_is_refused(rules, told):
    with pytest.raises(StudyError, match=r"metric|task|optimizer") as error:
        compile_study(study(**rules))
    assert told in str(error.value)


@pytest.mark.parametrize("name", ["reptile", "fomaml", "maml"])
def test_other_learners_take_a_space_as_it_is(name):
    plan = compile_study(
        study(name=name, privacy=PRIVATE, metric={"loss": "triplet", "radius": 1.0})
    )
    learner, model = learner_for(plan), PrivateModel(build(plan.study, seed=1))
    theta = params_of(build(plan.study, seed=1))
    delta = learner.adapt(model, theta, Patients(people(), 120), SeededSource(0))
    assert delta.keys() == theta.keys()
    assert learner.stays(theta) == head_of(theta)
    parts = {event.part for event in plan.training_prices()}
    assert parts == ({"train"} if name == "reptile" else {"support", "query"})
    assert accounting.epsilon(plan.training_prices(), delta=1e-4) < math.inf
