"""A simulated run of an effect: the hospitals release their tables, and the exact ones stand by."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

from common.cohort.read import read_cohort
from common.effect_table import effect_table
from common.errors import StudyError
from common.plan import Plan, compile_study
from common.scenario import Simulation
from common.study import Study
from server.effects import EFFECT, effect_metrics, effect_of, effect_values, pooled_or_why
from server.results import privacy_of, spent_of
from server.store import Store
from simulations.engines import open_engine
from simulations.results import NOISE
from simulations.world import (
    Say,
    World,
    check_quorum,
    cohort_of,
    finished_job,
    scenario_of,
    world_of,
)


def run_effect(
    study: Study, run_dir: Path, *, engine: str, say: Say, started: float
) -> dict[str, Any]:
    """Have every hospital release its table, and return what the run says, as plain JSON values.

    Args:
        study: Of an effect, with its simulation table as the run is to be.
        run_dir: As `simulations.runner.prepare` made it.
        engine: See `simulations.engines`.
        say: Told what happens, a line each.
        started: The monotonic clock at the start.

    Raises:
        GrandroundsError: the study, the data or the run fails; the folder can be resumed.
    """
    scenario, plan = scenario_of(study), compile_study(study)
    _check(scenario)
    world = world_of(study, scenario, run_dir, scenario.seed)
    for name, reason in world.left_out.items():
        say(f"{name} is {reason}")
    check_quorum(study, taking_part=len(world.cohorts))
    with open_engine(engine, run_dir=run_dir) as run_job:
        job = finished_job(world, EFFECT, plan, run_job)
    with closing(Store(run_dir)) as store:
        privacy = privacy_of(plan, noise=NOISE, spent=spent_of(store, job))
    seconds = time.monotonic() - started
    metrics = effect_metrics(plan, run_dir, job, engine=engine, privacy=privacy, seconds=seconds)
    sizes = {h.name: h.declared for h in world.hospitals}  # of those left out, too
    sites = [{**site, "declared": sizes[site["name"]]} for site in metrics["sites"]]
    return metrics | {"seed": scenario.seed, "sites": sites, "exact": _exact(world, plan)}


def _check(scenario: Simulation) -> None:
    """Refuse what has no meaning where nothing is trained."""
    plain = Simulation.model_fields
    if scenario.seeds != 1:
        raise StudyError(
            f"simulation.seeds is {scenario.seeds}, and the study is of an effect: one run, one "
            "release",
            remedy="leave --seeds out; another --seed draws other noise",
        )
    if scenario.arms != plain["arms"].default:
        raise StudyError(
            f"simulation.arms is {list(scenario.arms)}, and the study is of an effect, which "
            "trains nothing",
            remedy="leave --arms out",
        )


def _exact(world: World, plan: Plan) -> dict[str, Any]:
    """Return what all hospitals' exact tables say, those too small to take part included."""
    rules = plan.study
    assert rules.effect is not None  # `run_effect` is of such studies alone
    measure, found = rules.effect.measure, {}
    for hospital in world.hospitals:
        cohort = world.cohorts.get(hospital.name) or read_cohort(
            cohort_of(hospital, world.scenario, world.seed).source(Path()), rules.cohort
        )
        table = effect_table(cohort.train, rules.effect, rules.cohort)
        found[hospital.name] = effect_of(plan, table, sigma=0.0, measure=measure)
    pooled, why = pooled_or_why(measure, found)
    return {
        "hospitals": len(found),
        "pooled": pooled,
        "why": why,
        "sites": {name: effect_values(measure, row) for name, row in found.items()},
    }
