"""A study of an effect: what it may say, what its one release costs, and what stands for it."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm

from common.errors import StudyError
from common.plan import read_plan, write_plan
from common.privacy.events import gaussian
from common.review import review
from common.study import parse_study
from tests.effect_world import MEAN, VALUES, effect_plan, effect_study
from tests.small_world import small_study

TABLE = VALUES["effect"]

WRONG = {
    "a model": ({"model": {"name": "mlp"}}, r"\[model\] and \[effect\] are given"),
    "a learner": ({"learner": {"local_steps": 2, "learning_rate": 0.1}}, r"\[learner\]"),
    "an evaluation": ({"evaluation": {"bins": 4}}, r"\[evaluation\]"),
    "rounds": ({"rounds": {"count": 3}}, "rounds.count is 3"),
    "a holdout": ({"cohort": {"train_fraction": 0.7}}, "cohort.train_fraction 0.7"),
    "a clip": ({"privacy": {"clip": 2.0}}, "clips nothing"),
    "missing values": ({"cohort": {"complete_cases": False}}, "cohort.complete_cases is false"),
    "no such feature": ({"effect": {**TABLE, "treatment": "drug"}}, "effect.treatment is 'drug'"),
    "no such arm": ({"effect": {**TABLE, "control": "sugar"}}, "effect.control is 'sugar'"),
    "one arm": ({"effect": {**TABLE, "control": "drug"}}, "both 'drug'"),
    "no arm": ({"effect": {"treatment": "rx", "treated": "drug"}}, "control is not given"),
    "an outcome of a table": ({"effect": {**TABLE, "outcome": "age"}}, "has no outcome"),
    "a mean's measure": ({"effect": {**TABLE, "measure": "MD"}}, "give OR, RR or RD"),
    "a table's measure": ({"effect": {**MEAN, "measure": "OR"}}, "give MD"),
    "an outcome that is no number": ({"effect": {**MEAN, "outcome": "rx"}}, "is no number"),
    "unknown measure": ({"effect": {**TABLE, "measure": "HR"}}, "effect.measure is 'HR'"),
    "three outcomes": (
        {"cohort": {"label": {"column": "outcome", "classes": ["a", "b", "c"]}}},
        "two classes",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_what_an_effect_has_no_use_for_is_refused_by_name(mistake):
    changes, message = WRONG[mistake]
    with pytest.raises(StudyError, match=message):
        effect_study(**changes)


def test_a_study_that_trains_still_needs_rounds_and_a_holdout():
    with pytest.raises(StudyError, match=r"rounds\.count is 0"):
        small_study(rounds={"count": 0})
    with pytest.raises(StudyError, match=r"cohort.train_fraction is 1.0"):
        small_study(cohort={"train_fraction": 1.0})
    assert "effect" not in small_study().rules()  # so that no digest of such a study changes


@pytest.mark.parametrize("effect", [TABLE, MEAN])
@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_the_price_is_that_of_one_gaussian_on_everybody(effect, epsilon):
    """The closed form of a Gaussian of sensitivity 1 (Balle and Wang 2018, theorem 8)."""
    plan = effect_plan(effect=effect, privacy={"epsilon": epsilon})
    sigma = plan.release_sigma / plan.study.effect.sensitivity

    def delta(e: float) -> float:
        rest = math.exp(e) * norm.cdf(-0.5 / sigma - e * sigma)
        return norm.cdf(0.5 / sigma - e * sigma) - rest

    assert delta(epsilon) <= plan.delta
    assert delta(epsilon - 0.01) > plan.delta  # and no more noise than that
    assert plan.epsilon == pytest.approx(epsilon, abs=0.01)
    assert sigma == pytest.approx(plan.evaluation_sigma)
    assert plan.evaluation_price() == gaussian(sigma=plan.evaluation_sigma, count=1, part="train")
    assert plan.training_prices(rounds=5) == ()
    assert plan.steps == 1
    assert plan.sigmas == (plan.evaluation_sigma,)


def test_a_given_sigma_is_the_noise_multiplier():
    plan = effect_plan(effect=MEAN, privacy={"epsilon": None, "sigma": 2.0})
    assert plan.release_sigma == pytest.approx(2.0 * math.sqrt(3))
    assert effect_plan(privacy={"epsilon": None, "sigma": 2.0}).release_sigma == 2.0


def test_without_privacy_the_release_is_unprotected():
    plan = effect_plan(privacy=None)
    assert plan.release_sigma == 0
    assert plan.epsilon == math.inf


CHANGES = {
    "measure": {"effect": {**TABLE, "measure": "RR"}},
    "arms": {"effect": {**TABLE, "treated": "placebo", "control": "drug"}},
    "kind": {"effect": MEAN},
    "epsilon": {"privacy": {"epsilon": 1.0}},
    "outcome": {"cohort": {"label": {"column": "outcome", "classes": ["ill", "none"]}}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_rule_is_in_the_digest(change):
    assert effect_plan(**CHANGES[change]).digest != effect_plan().digest


def test_a_plan_reads_back_as_it_was_written(tmp_path):
    plan = effect_plan()
    assert read_plan(write_plan(plan, tmp_path)) == plan
    again = parse_study(plan.study.model_dump(mode="json"), origin="a test")
    assert again == plan.study  # with every default in it


def test_the_review_says_what_leaves_and_what_a_patient_spends():
    plan = effect_plan()
    found = review(plan)
    said = " ".join((*found.computes, *found.leaves, *found.spends))
    for words in ("trains nothing", "drug or placebo", "four counts", "1.17 patients",
                  "epsilon 2.998 with delta 0.0002"):  # fmt: skip
        assert words in said
    assert found.by_round == ()
    assert "WITHOUT NOISE" in " ".join(review(effect_plan(privacy=None)).leaves)
    assert "held to [0, 100]" in " ".join(review(effect_plan(effect=MEAN)).computes)
