"""Arms: each is the study with its own learner and the rules that differ."""

import pytest

from common.errors import StudyError
from common.study import parse_study
from simulations.arms import plan_of
from simulations.runner import prepare

STUDY = {
    "name": "t",
    "cohort": {
        "label": {"classes": ["a", "b"]},
        "features": [{"name": "x", "range": [0, 1]}],
    },
    "learner": {"name": "maml", "learning_rate": 0.1, "meta": {"query_fraction": 0.25}},
    "rounds": {"count": 2},
    "privacy": {"sigma": 2.0, "delta": 1e-4},
    "simulation": {"sites": {"a": {"path": "a.csv", "declared": 100}}},
}


def study_with(arm, **loho):
    simulation = {**STUDY["simulation"], "arm": {"other": arm}, "loho": loho}
    return parse_study({**STUDY, "simulation": simulation}, origin="t")


def plan_with(arm):
    study = study_with(arm)
    return plan_of(study, study.simulation.arm_named("other"))


def test_an_arm_of_another_kind_leaves_out_what_it_has_no_use_for():
    assert plan_with({"kind": "reptile"}).study.learner.meta is None
    assert plan_with({"kind": "fomaml"}).study.learner.meta.query_fraction == 0.25


def test_an_arms_own_rules_are_its_plans():
    plan = plan_with(
        {"kind": "fomaml", "rules": {"learner": {"local_steps": 7}, "privacy": {"clip": 0.5}}}
    )
    assert (plan.study.learner.local_steps, plan.clip, plan.sigma) == (7, 0.5, 2.0)
    assert plan.study.learner.meta.query_fraction == 0.25


def test_an_arms_own_model_and_its_weights_come_along(tmp_path):
    arm = {"kind": "reptile", "rules": {"model": {"name": "mlp", "weights": "body.safetensors"}}}
    assert plan_with(arm).study.model.name == "mlp"
    with pytest.raises(
        StudyError, match=r"model\.weights is '.*body\.safetensors', and there is no"
    ):
        prepare(study_with(arm), tmp_path / "run", weights_from=tmp_path)
    (tmp_path / "body.safetensors").write_bytes(b"weights")
    prepare(study_with(arm), tmp_path / "run", weights_from=tmp_path)
    assert (tmp_path / "run" / "body.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("rules", [{"learner": {"speed": 1}}, {"learner": {"local_steps": 0}}])
def test_a_rule_that_is_none_is_named(rules):
    with pytest.raises(StudyError, match=r"arm 'reptile', rules: .*learner\."):
        plan_with({"kind": "reptile", "rules": rules})


@pytest.mark.parametrize("arms", [["local"], ["reptile", "reptile"], ["nobody"], []])
def test_hospitals_are_left_out_of_federated_arms_alone(arms):
    with pytest.raises(StudyError, match="arm"):
        study_with({"kind": "reptile"}, arms=arms)
