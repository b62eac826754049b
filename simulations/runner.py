"""A whole comparison: arms on the same hospitals, splits and seeds, into one run folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import RunError, StudyError
from common.files import write_atomic
from common.models import build, initial_params
from common.params import Params
from common.plan import Plan
from common.scenario import FEDERATED, Arm
from common.schema import dump_toml
from common.study import Study
from server.rounds.checkpoint import curve_rounds
from simulations.arms import (
    Result,
    auc_of,
    local,
    majority,
    plan_of,
    pooled,
    shared_and_adapted,
)
from simulations.engines import Engine, open_engine
from simulations.fewshot.rules import check_world, plans_of, rules_of
from simulations.fewshot.run import FewShotRun, meet_after
from simulations.partitions.types import Hospital
from simulations.retrieval import retrieval_of
from simulations.world import (
    Say,
    World,
    check_quorum,
    federated_params,
    notes_of,
    own_params,
    scenario_of,
    state_at,
    world_of,
)

Curves = dict[str, list[tuple[int, float | None]]]


@dataclass(frozen=True)
class Outcome:
    """What one arm did under one seed.

    Attributes:
        sites: Exact figures at each hospital.
        params: The arm's shared weights, where it has some.
        job: Its name in the run store, where it is federated.
    """

    sites: Mapping[str, Result]
    params: Params | None = None
    job: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything a run made, before it is told.

    Attributes:
        plans: Arm -> its compiled study.
        outcomes: Arm -> one outcome a seed.
        hospitals: All of them, those left out included.
        left_out: Hospital -> why.
        patients: Hospital -> (training patients, holdout patients), first seed.
        curves: Arm -> hospital -> (round, exact AUC of the shared model), first seed.
        notes: Hospital -> what its reader saw, with exact counts, first seed.
        retrieval: How well shared bodies find similar images, first seed; else None.
        few_shot: What hospitals that are new made of a few labelled cases, first seed; else None.
    """

    study: Study
    main_arm: str
    plans: Mapping[str, Plan]
    outcomes: Mapping[str, list[Outcome]]
    hospitals: list[Hospital]
    left_out: Mapping[str, str]
    patients: Mapping[str, tuple[int, int]]
    curves: Mapping[str, Curves]
    notes: Mapping[str, tuple[str, ...]]
    retrieval: Mapping[str, Any] | None = None
    few_shot: FewShotRun | None = None


def main_arm_of(study: Study) -> str:
    """Return the arm the run is about: the study's own learner, or the first federated arm."""
    scenario = scenario_of(study)
    federated = [a for a in scenario.arms if scenario.arm_named(a).kind in FEDERATED]
    if study.learner.name in federated:
        return study.learner.name
    return federated[0] if federated else scenario.arms[0]


def prepare(study: Study, run_dir: Path, *, weights_from: Path | None = None) -> None:
    """Make the run folder with everything that a resumed run needs.

    Raises:
        RunError: the folder holds another run, or is none.
        StudyError: the study's weights file is not there.
    """
    text = dump_toml(study.model_dump(mode="json"))
    if run_dir.exists() and not run_dir.is_dir():
        raise RunError(
            f"--out is {str(run_dir)!r}, which is a file",
            remedy="name a folder that is not there yet",
        )
    if (run_dir / "study.toml").exists():
        raise RunError(
            f"run folder {str(run_dir)!r} already holds a run",
            remedy="resume it with --resume, or give --out another folder",
        )
    files = [] if weights_from is None else [(weights_from / w, w) for w in _weights_of(study)]
    for path, _ in files:
        if not path.is_file():
            raise StudyError(
                f"model.weights is {str(path)!r}, and there is no such file",
                remedy="put it beside the study file, or leave model.weights out",
            )
    run_dir.mkdir(parents=True, exist_ok=True)
    for path, name in files:
        shutil.copyfile(path, run_dir / name)
    write_atomic(run_dir / "study.toml", text)


def _weights_of(study: Study) -> set[str]:
    """Return the files of initial weights that the study or an arm of its simulation names."""
    arms = study.simulation.arm.values() if study.simulation else ()
    named = [study.model.weights, *(arm.rules.get("model", {}).get("weights") for arm in arms)]
    return {str(name) for name in named if name is not None}


def compare(study: Study, run_dir: Path, *, engine: str, say: Say) -> Comparison:
    """Run every arm under every seed; what a run folder already holds is not run again.

    Args:
        study: With its simulation table as the run is to be.
        run_dir: As `prepare` made it.
        engine: See `simulations.engines`.
        say: Told what happens, a line each.

    Raises:
        GrandroundsError: the study, the data or a run fails; the folder can be resumed.
    """
    scenario, main = scenario_of(study), main_arm_of(study)
    arms = {name: scenario.arm_named(name) for name in scenario.arms}
    plans = {name: plan_of(study, arm) for name, arm in arms.items()}
    worlds = [
        world_of(study, scenario, run_dir, seed)
        for seed in range(scenario.seed, scenario.seed + scenario.seeds)
    ]
    for name, reason in worlds[0].left_out.items():
        say(f"{name} is {reason}")
    everybody = worlds[0]
    if scenario.fewshot.new:
        rules = rules_of(study)
        check_world(study, rules, everybody, rules.new)
        plans_of(study, rules)
        worlds = [world.without(*rules.new) for world in worlds]
    if any(arm.kind in FEDERATED for arm in arms.values()):
        check_quorum(study, taking_part=min(len(world.cohorts) for world in worlds))
    outcomes: dict[str, list[Outcome]] = {}
    with open_engine(engine, run_dir=run_dir) as run_job:
        for name, arm in arms.items():
            started = time.monotonic()
            outcomes[name] = [_outcome(w, arm, name, plans[name], run_job) for w in worlds]
            say(f"{name}: {len(worlds)} seed(s) in {time.monotonic() - started:.1f} s")
        few_shot = meet_after(study, everybody, run_job, say) if scenario.fewshot.new else None
    first = worlds[0]
    return Comparison(
        study=study,
        main_arm=main,
        plans=plans,
        outcomes=outcomes,
        hospitals=first.hospitals,
        left_out=first.left_out,
        patients={n: (c.train.patients, c.holdout.patients) for n, c in first.cohorts.items()},
        curves={n: _curves(first, plans[n], o[0].job) for n, o in outcomes.items() if o[0].job},
        notes=notes_of(first),
        retrieval=retrieval_of(
            first,
            {n: (plans[n], p, o[0].job) for n, o in outcomes.items() if (p := o[0].params)},
        ),
        few_shot=few_shot,
    )


def _outcome(world: World, arm: Arm, name: str, plan: Plan, run_job: Engine) -> Outcome:
    if arm.kind == "majority":
        return Outcome(majority(world.cohorts, plan.study.cohort.label))
    if arm.kind in FEDERATED:
        params, job = federated_params(world, name, plan, run_job)
        found = shared_and_adapted(
            plan, lambda site: own_params(world, job, plan, site, params), world.cohorts
        )
        return Outcome(found, params, job)
    initial = initial_params(plan.study, seed=world.seed, folder=world.run_dir)
    if arm.kind == "local":
        return Outcome(local(plan, initial, world.cohorts, seed=world.seed))
    params = pooled(plan, initial, world.cohorts, seed=world.seed)
    return Outcome(shared_and_adapted(plan, lambda site: params, world.cohorts), params)


def _curves(world: World, plan: Plan, job: str | None) -> Curves:
    """Return the exact AUC of the shared model at each hospital, round by round."""
    assert job is not None
    model = build(plan.study)
    curves: Curves = {name: [] for name in world.cohorts}
    last = plan.study.rounds.count
    # Episodes leave a hospital's classes without a place in the space until the last round.
    numbers = {last} if plan.study.learner.is_episodic else curve_rounds(last)
    for number in sorted(numbers):
        params = state_at(world.run_dir, job, plan, number).model
        for name, cohort in world.cohorts.items():
            own = own_params(world, job, plan, name, params, after=number)
            label = plan.study.cohort.label
            curves[name].append((number, auc_of(model, own, cohort.holdout, label)))
    return curves
