"""Membership inference: who is remembered is found, under privacy nobody, of few no word."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.auditing.membership import area
from common.cohort.parts import Cohort, Part
from common.errors import DataError
from common.models import build, initial_params
from common.plan import compile_study
from common.study import Study
from simulations.audit.attacks.membership import _slope, infer, likelihood_ratio
from tests.small_world import small_study

FEATURES = 40


def wide() -> Study:
    """Return a study with so many inputs for so few patients that a model remembers them."""
    features = [
        {"name": f"f{i}", "range": [-9, 9], "center": 0, "scale": 1} for i in range(FEATURES)
    ]
    return small_study(
        cohort={"features": features, "patient": None, "max_records": 1},
        learner={"local_steps": 5, "learning_rate": 2.0},
        privacy={"epsilon": 1.0, "sigma": None, "delta": 1e-4, "clip": 1.0},
    )


def hospital(name: str, patients: int) -> Cohort:
    """Return patients whose outcomes are coins: there is nothing to learn but who they are."""
    rng = np.random.default_rng([9, len(name), patients])
    x = torch.from_numpy(rng.standard_normal((patients, FEATURES)).astype(np.float32))
    part = Part(x, torch.from_numpy(rng.integers(0, 2, patients)), torch.arange(patients), patients)
    is_train = torch.arange(patients) % 3 < 2
    return Cohort(name, patients, part.of_patients(is_train), part.of_patients(~is_train))


def found(study: Study) -> dict[str, float]:
    cohorts = {name: hospital(name, 60) for name in ("a", "bb")}
    theta = initial_params(study, seed=0)
    judged = infer(compile_study(study), theta, cohorts, shadows=8, seed=5)
    return {
        score: area(ratio[judged.member], ratio[~judged.member])
        for score, ratio in judged.ratios.items()
    }


@pytest.mark.slow
def test_members_are_told_from_others_without_privacy_and_not_with_it():
    # 120 patients: an AUC of chance has a standard error of .053.
    study = wide()
    plain, private = found(study.with_epsilon(None)), found(study)
    assert min(plain.values()) > 0.65
    assert max(abs(value - 0.5) for value in private.values()) < 0.2


@pytest.mark.slow
def test_too_few_patients_have_no_verdict():
    cohorts = {"a": hospital("a", 15), "bb": hospital("bb", 15)}
    study = wide()
    with pytest.raises(DataError, match="30 patients: too few for a membership test"):
        infer(compile_study(study), initial_params(study, seed=0), cohorts, shadows=4, seed=0)


@pytest.mark.slow
def test_the_ratio_is_that_of_two_normals():
    # One patient, scores 1, 3 inside and -1, -3 outside: means 2 and -2, variance 4/2 with only
    # the patient's own to go by. log ratio at 1: (9 - 1) / (2 * 2) = 2.
    shadow = np.array([[1.0], [3.0], [-1.0], [-3.0]])
    member = np.array([[True], [True], [False], [False]])
    assert likelihood_ratio(np.array([1.0]), shadow, member) == pytest.approx([2.0])


@pytest.mark.slow
def test_a_slope_is_a_gradient_times_a_direction():
    study = wide()
    model, part = build(study), hospital("a", 9).train
    theta = {k: v + 0.1 for k, v in initial_params(study, seed=0).items()}
    direction = {k: torch.randn_like(v) for k, v in theta.items()}
    got = _slope(model, theta, direction, part)
    for number in range(part.patients):
        weights = {k: v.clone().requires_grad_() for k, v in theta.items()}
        one = part.x[number : number + 1]
        loss = F.cross_entropy(
            torch.func.functional_call(model, weights, (one,)), part.y[number : number + 1]
        )
        gradients = torch.autograd.grad(loss, list(weights.values()))
        pairs = zip(gradients, direction.values(), strict=True)
        expected = sum(float((g * d).sum()) for g, d in pairs)
        assert float(got[number]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {"learner": {"name": "fedrep", "local_steps": 1, "head_steps": 1, "learning_rate": 1.0}},
    {"model": {"name": "mlp", "hidden": [4], "frozen": "body"}},
], ids=["a head that stays", "a frozen body"])  # fmt: skip
def test_a_coordinator_sees_what_leaves_and_nothing_else(monkeypatch, changes):
    """Faults it is for: an attack on heads, which stay, and one that stops at a frozen body."""
    seen = set()

    def spy(model, params, direction, part):
        seen.update(direction)
        return _slope(model, params, direction, part)

    monkeypatch.setattr("simulations.audit.attacks.membership._slope", spy)
    study = small_study(**{
        "cohort": {"features": wide().cohort.model_dump()["features"], "patient": None},
        "model": {"name": "mlp", "hidden": [4]}, **changes,
    })  # fmt: skip
    cohorts = {"a": hospital("a", 40)}
    infer(compile_study(study), initial_params(study, seed=0), cohorts, shadows=4, seed=0)
    body, head = {"body.1.weight", "body.1.bias"}, {"body.3.weight", "body.3.bias"}
    assert seen == (head if study.model.frozen else body)
