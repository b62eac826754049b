"""What a few-shot study is to do, and whether its hospitals allow it; nothing is trained here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.cohort.parts import Part, join
from common.errors import StudyError
from common.few_shot_spec import UNTRAINED, FewShot, Method
from common.models import build
from common.plan import Plan, compile_study
from common.study import Study
from simulations.arms import plan_of
from simulations.fewshot.episodes import check_hospital
from simulations.fewshot.methods import baselines, check_method, default_methods
from simulations.world import World, scenario_of


def rules_of(study: Study) -> FewShot:
    """Return the study's rules, with its own learner where no method is named, and baselines."""
    study.check_has_classes("sim fewshot")
    rules, always = scenario_of(study).fewshot, baselines(study)
    named = rules.methods or default_methods(study)
    first = [Method.model_validate(name) for name in always]
    methods = (*[m for m in first if m.name not in {n.name for n in named}], *named)
    return rules.model_copy(update={"methods": methods})


def plans_of(study: Study, rules: FewShot) -> dict[str, Plan]:
    """Return arm -> its compiled study, and under `UNTRAINED` the study as it stands.

    Raises:
        StudyError: an arm's rules are none, or a method does not go with the study.
    """
    scenario = scenario_of(study)
    plans = {name: plan_of(study, scenario.arm_named(name)) for name in rules.named_arms}
    plans[UNTRAINED] = compile_study(study)
    _check_sources(rules, plans)
    for method in rules.methods:
        check_method(method, study, plans[method.arm or UNTRAINED])
    return plans


def _check_sources(rules: FewShot, plans: Mapping[str, Plan]) -> None:
    """Refuse sources that train nothing, that have no body, or whose price does not add up."""
    if rules.sources is None:
        return
    arm = rules.source_arm
    if arm is None:
        raise StudyError(
            "simulation.fewshot.sources is asked for, and no method has a federated arm",
            remedy="say whose plan each hospital is to run alone: sources = { arm = 'ARM' }",
        )
    if build(plans[arm].study).is_one_layer:
        raise StudyError(
            f"simulation.fewshot.sources: arm {arm!r} trains a model without a body "
            f"(model.name {plans[arm].study.model.name!r}): every source describes cases alike",
            remedy="use a model with layers below the last, such as 'mlp', or leave sources out",
        )
    if plans[arm].adjacency == "replace":
        raise StudyError(
            f"simulation.fewshot.sources: arm {arm!r} promises of episodes (adjacency 'replace'), "
            "and moments are of patients: the two prices do not add up",
            remedy="name another arm: sources = { arm = 'ARM' }",
        )


def check_world(study: Study, rules: FewShot, world: World, names: Sequence[str]) -> None:
    """Refuse what cannot be done with these hospitals, before anything is trained.

    Raises:
        StudyError: a hospital is not there, or has too few patients or classes.
        DataError: all its patients are of one class.
    """
    for name in names:
        if name in world.left_out:
            raise StudyError(
                f"hospital {name!r} is to be new, and is {world.left_out[name]}",
                remedy="lower cohort.min_declared, or take it out of simulation.fewshot",
            )
        if name not in world.cohorts:
            raise StudyError(
                f"simulation.fewshot names hospital {name!r}, and the hospitals are "
                f"{', '.join(sorted(world.cohorts))}",
                remedy="name one of those in held_out or new",
            )
        check_hospital(name, *everybody(study, world, name), rules)


def everybody(study: Study, world: World, name: str) -> tuple[Part, int]:
    """Return all patients of a hospital, and how many classes it has."""
    cohort = world.cohorts[name]
    label = study.cohort.label
    return join([cohort.train, cohort.holdout]), cohort.classes if label.own else len(label.classes)


def rounds_of(study: Study) -> int:
    """Return how many federated rounds `few_shot` takes in all."""
    scenario, rules = scenario_of(study), rules_of(study)
    own = [scenario.arm_named(name).rules.get("rounds", {}) for name in rules.arms]
    once = sum(int(table.get("count", study.rounds.count)) for table in own)
    return once * (len(rules.held_out) or scenario.count)
