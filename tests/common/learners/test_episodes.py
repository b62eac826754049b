"""Episodes and problems: who is in them, and the losses of hand-worked ones."""

import math

import pytest
import torch

from common.cohort.parts import Part
from common.errors import DataError
from common.learners import learner_for
from common.learners.episodes import loss_in_episode
from common.learners.problems import problem, turned
from common.learners.types import Patients
from common.metric_spec import MetricSpec, TaskSpec
from common.models import build, load_params, params_of
from common.plan import compile_study
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from tests.common.learners.test_references import people, study

SHOTS, OF = (
    torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [5.0, 0.0]]),
    torch.tensor([0, 0, 1, 1]),
)
QUERY = torch.tensor([[1.0, 1.0]])


def test_prototypical_loss_of_a_hand_worked_episode():
    # Means (0, 1) and (4, 0): squared distances 1 and 10, so p(0) = 1 / (1 + e^-9).
    loss = loss_in_episode(MetricSpec())(SHOTS, OF, QUERY, torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-9)), rel=1e-3)


def test_matching_loss_of_a_hand_worked_episode():
    # Cosines of (1, 1) with (0, 2), (0, 1), (3, 0), (5, 5): a, a, a and 1, with a = 1 / sqrt(2).
    shots = torch.tensor([[0.0, 2.0], [0.0, 1.0], [3.0, 0.0], [5.0, 5.0]])
    metric = MetricSpec(loss="matching", temperature=0.5)
    loss = loss_in_episode(metric)(shots, OF, QUERY, torch.tensor([1]))
    weight = [math.exp(2 * c) for c in (math.sqrt(0.5), math.sqrt(0.5), math.sqrt(0.5), 1.0)]
    assert loss.item() == pytest.approx(-math.log(sum(weight[2:]) / sum(weight)), rel=1e-5)


def rules(**task):
    return compile_study(study(own=True, ways=6, task=task))


def test_an_episode_has_as_many_shots_and_queries_a_class_and_no_case_twice():
    plan = rules(kind="classes", ways=3, shots=2, queries=4)
    task = plan.study.learner.task
    part = people(120, classes=6)
    found = problem(plan, task, Patients(part, 240, 6), SeededSource(0))
    assert found.classes == 3
    is_shot = found.train.draws[:, 0] > 0.5
    for c in range(3):
        assert int((is_shot & (found.train.y == c)).sum()) == 2
        assert int((~is_shot & (found.train.y == c)).sum()) == 4
    rows = [tuple(row) for row in found.train.x.tolist()]
    assert len(set(rows)) == len(rows)
    assert plan.denominator(found.declared) == pytest.approx(len(rows))


def test_a_hospital_without_enough_cases_is_told_how_many_there_are():
    plan = rules(kind="classes", ways=3, shots=20, queries=4)
    with pytest.raises(DataError, match="0 of 6 classes"):
        problem(plan, plan.study.learner.task, Patients(people(60), 120, 6), SeededSource(0))


@pytest.mark.parametrize("kind", ["one_against_rest", "pairs"])
def test_binary_problems_come_from_the_declared_classes_alone(kind):
    task, part = TaskSpec(kind=kind), people(60, classes=3)
    plan = rules(kind=kind)
    seen = set()
    for seed in range(60):
        found = problem(plan, task, Patients(part, 120, 4), SeededSource(seed))
        assert found.train.y.max() <= 1
        assert found.classes == 2
        seen.add(len(found.train.y))
    # A fourth class is declared and nobody has it: problems about it are drawn all the same.
    assert seen == ({60} if kind == "one_against_rest" else {20, 40})


def test_a_picture_is_turned_as_its_class_says():
    x = torch.arange(32, dtype=torch.float32).reshape(2, 1, 4, 4)
    part = Part(x, torch.zeros(2, dtype=torch.int64), torch.arange(2), 2)
    found = turned(part, SeededSource(3))
    for before, after, turns in zip(x, found.x, found.y.tolist(), strict=True):
        assert torch.equal(torch.rot90(before, turns, dims=(1, 2)), after)


@pytest.mark.parametrize("name", ["prototypical", "matching", "siamese", "triplet"])
def test_steps_on_episodes_lower_their_loss(name):
    plan = compile_study(
        study(
            name=name,
            learning_rate=0.05,
            local_steps=20,
            task={"kind": "classes", "ways": 3, "shots": 3, "queries": 5},
        )
    )
    module = build(plan.study, seed=1)
    theta, model, part = params_of(module), PrivateModel(build(plan.study, seed=1)), people(90)
    delta = learner_for(plan).adapt(model, theta, Patients(part, 180, last=False), SeededSource(0))
    loss = loss_in_episode(plan.study.learner.metric)

    def mean_loss(params):
        found = []
        load_params(module, params)
        for seed in range(10):
            one = problem(plan, plan.study.learner.task, Patients(part, 180), SeededSource(seed))
            shot = one.train.draws[:, 0] > 0.5
            z = module.features(one.train.x).detach()
            found.append(loss(z[shot], one.train.y[shot], z[~shot], one.train.y[~shot]))
        return torch.stack(found).mean()

    after = {k: v + delta.get(k, torch.zeros_like(v)) for k, v in theta.items()}
    assert mean_loss(after) < 0.9 * mean_loss(theta)
