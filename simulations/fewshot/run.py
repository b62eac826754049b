"""Few-shot: how a hospital does that is new, with a few labelled cases and what others learnt.

Each hospital in turn takes no part; the others train every arm that a method names, through the
real engine. The new hospital then meets episodes (`simulations.fewshot.episodes`), the same for all
methods, beside baselines that learn from its own few cases alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from common.few_shot_spec import UNTRAINED, FewShot
from common.files import write_atomic
from common.models import initial_params
from common.params import Params
from common.plan import Plan
from common.seeds import derive
from common.study import Study
from simulations.engines import Engine, open_engine
from simulations.fewshot.episodes import (
    Judged,
    episodes_of,
    mean_and_half_width,
    ways_of,
)
from simulations.fewshot.methods import (
    judged_by,
    ready,
)
from simulations.fewshot.rules import check_world, everybody, plans_of, rules_of
from simulations.fewshot.sources import Sources, sources_of
from simulations.partitions.types import Hospital
from simulations.world import (
    Say,
    World,
    check_quorum,
    federated_params,
    notes_of,
    scenario_of,
    world_of,
)

_EPISODES_OF_A_RUN = 50  # of `sim run`, where few cases are one table of several


@dataclass(frozen=True)
class NewHospital:
    """A hospital that took no part, and was then met.

    Attributes:
        ways: Classes of an episode.
        classes: Classes of the hospital.
        shots: Labelled patients a class -> method -> one judgement an episode.
        sources: What each other hospital's own body gives it, where the study asks.
    """

    name: str
    declared: int
    ways: int
    classes: int
    patients: int
    records: int
    notes: tuple[str, ...]
    shots: Mapping[str, Mapping[str, Sequence[Judged]]]
    sources: Sources | None = None


@dataclass(frozen=True)
class FewShotRun:
    """Everything that was found of new hospitals, before it is told.

    Attributes:
        rules: With the baselines and the episodes as they were.
        plans: Arm -> its compiled study.
        refused: Hospital -> why it could not take part.
    """

    study: Study
    rules: FewShot
    plans: Mapping[str, Plan]
    sites: tuple[NewHospital, ...]
    hospitals: tuple[Hospital, ...]
    refused: Mapping[str, str]


def few_shot(study: Study, run_dir: Path, *, engine: str, say: Say) -> FewShotRun:
    """Meet each new hospital after training without it.

    Args:
        study: With its simulation table as the run is to be.
        run_dir: As `simulations.runner.prepare` made it.
        engine: See `simulations.engines`.
        say: Told what happens, a line each.

    Raises:
        GrandroundsError: as `simulations.runner.compare`; the folder can be resumed.
    """
    scenario = scenario_of(study)
    rules = rules_of(study)
    plans = plans_of(study, rules)
    world = world_of(study, scenario, run_dir, scenario.seed)
    refused = {name: reason.removeprefix("left out: ") for name, reason in world.left_out.items()}
    for name, reason in refused.items():
        say(f"{name} takes no part: {reason}")
    names = rules.held_out or tuple(world.cohorts)
    check_world(study, rules, world, names)
    check_quorum(study, taking_part=len(world.cohorts), left_out=1)
    sites = []
    with open_engine(engine, run_dir=run_dir) as run_job:
        for name in names:
            others = world.without(name)
            params = {
                arm: federated_params(others, f"{arm}-without-{name}", plans[arm], run_job)[0]
                for arm in rules.arms
            }
            site = meet(name, world, rules, plans, params, say)
            found = sources_of(name, world, others, rules, plans, say)
            sites.append(replace(site, sources=found))
    return FewShotRun(study, rules, plans, tuple(sites), tuple(world.hospitals), refused)


def meet_after(study: Study, world: World, run_job: Engine, say: Say) -> FewShotRun:
    """Meet the hospitals that are new to `sim run`, whose arms were trained without them.

    Args:
        study: The study.
        world: The first seed's, the new hospitals in it.
        run_job: Trains those arms of the methods that the comparison has not.
        say: Told what happens.
    """
    rules = rules_of(study)
    rules = rules.model_copy(update={"episodes": min(rules.episodes, _EPISODES_OF_A_RUN)})
    plans, others = plans_of(study, rules), world.without(*rules.new)
    params = {arm: federated_params(others, arm, plans[arm], run_job)[0] for arm in rules.arms}
    sites = [
        replace(
            meet(name, world, rules, plans, params, say),
            sources=sources_of(name, world, others, rules, plans, say),
        )
        for name in rules.new
    ]
    return FewShotRun(study, rules, plans, tuple(sites), tuple(world.hospitals), {})


def meet(
    name: str,
    world: World,
    rules: FewShot,
    plans: Mapping[str, Plan],
    params: Mapping[str, Params],
    say: Say,
) -> NewHospital:
    """Return what every method makes of one new hospital; what its file holds is not done again."""
    study, cohort = plans[UNTRAINED].study, world.cohorts[name]
    part, classes = everybody(study, world, name)
    seed = derive(world.seed, "fewshot", name)
    episodes = {k: list(episodes_of(part, classes, rules, k, seed=seed)) for k in rules.shots}
    start = initial_params(study, seed=world.seed, folder=world.run_dir)
    file = world.run_dir / "episodes" / f"{name}.json"
    done = _read(file)
    for method in rules.methods:
        if method.name in done:
            continue
        began, arm = time.monotonic(), method.arm or UNTRAINED
        prepared = ready(method, part, plans[arm], params.get(arm, start))
        found = {
            str(k): [judged_by(prepared, episode) for episode in drawn[: method.episodes]]
            for k, drawn in episodes.items()
        }
        done[method.name] = found
        _write(file, done)
        say(f"{name}: {method.name} {_told(found)}, {time.monotonic() - began:.1f} s")
    return NewHospital(
        name=name,
        declared=cohort.declared,
        ways=ways_of(rules, classes),
        classes=classes,
        patients=part.patients,
        records=len(part.y),
        notes=notes_of(world)[name],
        shots={str(k): {m.name: done[m.name][str(k)] for m in rules.methods} for k in rules.shots},
    )


def _told(found: Mapping[str, Sequence[Judged]]) -> str:
    rows = []
    for k, judged in found.items():
        mean, half = mean_and_half_width([one.accuracy for one in judged])
        rows.append(f"{mean:.3f} ± {half:.3f} of {k} a class")
    return ", ".join(rows)


Done = dict[str, dict[str, list[Judged]]]


def _read(file: Path) -> Done:
    """Return method -> shots -> judgements, as far as an interrupted run came."""
    if not file.is_file():
        return {}
    values = json.loads(file.read_text(encoding="utf-8"))
    return {m: {k: [Judged(*row) for row in rows] for k, rows in found.items()}
            for m, found in values.items()}  # fmt: skip


def _write(file: Path, done: Done) -> None:
    values = {m: {k: [astuple(row) for row in rows] for k, rows in found.items()}
              for m, found in done.items()}  # fmt: skip
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, json.dumps(values))
