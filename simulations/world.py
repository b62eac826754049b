"""One seed's hospitals on disk and in memory, and the federated jobs over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from client.heads import with_kept
from client.policy import Policy
from client.site import CohortConfig, write_site
from common.cohort.parts import Cohort
from common.cohort.read import read_cohort
from common.errors import RunError, StudyError
from common.learners import learner_for
from common.learners.types import State
from common.params import Params
from common.plan import Plan, write_plan
from common.privacy.accounting import delta_limit
from common.scenario import Simulation
from common.seeds import derive
from common.study import Study
from server.rounds.checkpoint import at_round, checkpoint_folder, load_state
from server.store import Store
from simulations.engines import Engine, Job
from simulations.hospitals import hospitals_of
from simulations.partitions.types import Hospital

Say = Callable[[str], None]
"""Told what happens, a line each."""


@dataclass(frozen=True)
class World:
    """One seed's hospitals and patients."""

    seed: int
    run_dir: Path
    scenario: Simulation
    hospitals: list[Hospital]
    left_out: dict[str, str]
    cohorts: dict[str, Cohort]

    def without(self, *names: str) -> World:
        """Return the world in which those hospitals take no part."""
        return replace(
            self,
            hospitals=[h for h in self.hospitals if h.name not in names],
            cohorts={n: c for n, c in self.cohorts.items() if n not in names},
        )


def world_of(study: Study, scenario: Simulation, run_dir: Path, seed: int) -> World:
    """Return a seed's hospitals with their patients, those too small left out.

    Raises:
        GrandroundsError: a hospital's data do not fit, or nobody is large enough.
    """
    folder = run_dir / "hospitals"
    hospitals = hospitals_of(study, scenario, folder=folder, seed=seed)
    reasons = {h.name: _unfit(study, h.declared) for h in hospitals}
    left_out = {name: f"left out: {reason}" for name, reason in reasons.items() if reason}
    if len(left_out) == len(hospitals):
        told = "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items()))
        raise StudyError(
            f"cohort.min_declared is {study.cohort.min_declared}, and no hospital is left ({told})",
            remedy="lower cohort.min_declared or privacy.delta, or give other hospitals",
        )
    cohorts = {
        h.name: read_cohort(cohort_of(h, scenario, seed).source(Path()), study.cohort)
        for h in hospitals
        if h.name not in left_out
    }
    return World(seed, run_dir, scenario, hospitals, left_out, cohorts)


def _unfit(study: Study, declared: int) -> str:
    """Say why a hospital's agent will refuse the study for its size, as its policy would."""
    least = study.cohort.min_declared
    if declared < least:
        return f"declared {declared} is below the minimum of {least}"
    if study.privacy is not None and study.privacy.delta > delta_limit(declared):
        return f"declared {declared} needs a delta of at most {delta_limit(declared):.3g}"
    return ""


def scenario_of(study: Study) -> Simulation:
    """Return the study's simulation table.

    Raises:
        StudyError: it has none.
    """
    if study.simulation is None:
        raise StudyError(
            f"study {study.name!r} has no [simulation] table",
            remedy="add one: which hospitals, which seeds, which arms",
        )
    return study.simulation


def check_quorum(study: Study, *, taking_part: int, left_out: int = 0) -> None:
    """Refuse a quorum that no round can reach, before anything is trained.

    Args:
        study: Its quorum.
        taking_part: How many hospitals are large enough.
        left_out: How many of these are left out of a training.

    Raises:
        StudyError: the others are fewer than the quorum.
    """
    if study.rounds.quorum <= taking_part - left_out:
        return
    few, most = f"{taking_part} hospitals take part", taking_part - left_out
    if left_out:
        few += f", and leaving one out lowers the count to {most}"
    raise StudyError(
        f"rounds.quorum is {study.rounds.quorum}, and {few}",
        remedy=f"lower rounds.quorum to {most} at most, or give more hospitals",
    )


def notes_of(world: World) -> dict[str, tuple[str, ...]]:
    """Return what each hospital's partition and reader noted: exact, for a simulation's user."""
    made = {hospital.name: hospital.notes for hospital in world.hospitals}
    return {name: (*made[name], *cohort.notes) for name, cohort in world.cohorts.items()}


def federated_params(world: World, name: str, plan: Plan, run_job: Engine) -> tuple[Params, str]:
    """Run a plan over a world's hospitals, unless the run folder holds its result already.

    Args:
        world: The hospitals.
        name: Of the arm; with the seed it names the job.
        plan: What to run.
        run_job: An engine.

    Returns:
        The final shared weights, and the job's name in the run store.
    """
    job = finished_job(world, name, plan, run_job)
    return state_at(world.run_dir, job, plan, plan.study.rounds.count).model, job


def finished_job(world: World, name: str, plan: Plan, run_job: Engine) -> str:
    """Run a plan over a world's hospitals, unless the run folder holds it already.

    Returns:
        The job's name in the run store.
    """
    job = _job(world, name, plan)
    if not _is_finished(job):
        run_job(job)
    if not _is_finished(job):
        raise RunError(f"job {job.name!r} ended without a result", remedy="resume the run")
    return job.name


def own_params(
    world: World, job: str, plan: Plan, site: str, params: Params, *, after: int | None = None
) -> Params:
    """Return a hospital's weights after a round or the last: the shared, and what is its own.

    Its own are those that the coordinator sends to it alone, and those that it keeps to itself;
    only a simulation can see the latter.
    """
    last, learner = plan.study.rounds.count if after is None else after, learner_for(plan)
    if learner.personal is not None:
        params = learner.personal(state_at(world.run_dir, job, plan, last), site)
    folder = world.run_dir / "sites" / job / site
    return with_kept(folder, params, digest=plan.digest, run=job, before=last + 1)


def _job(world: World, arm: str, plan: Plan) -> Job:
    """Write every hospital's folder, and the plan."""
    name = f"{arm}-seed-{world.seed}"
    sites_dir = world.run_dir / "sites" / name
    policy = _policy(plan, world.seed)
    for hospital in world.hospitals:
        cohort = cohort_of(hospital, world.scenario, world.seed)
        write_site(sites_dir / hospital.name, cohort=cohort, policy=policy, plans=[plan])
    plans = world.run_dir / "plans"
    plans.mkdir(exist_ok=True)
    return Job(name, world.run_dir, write_plan(plan, plans), sites_dir, world.seed)


def cohort_of(hospital: Hospital, scenario: Simulation, seed: int) -> CohortConfig:
    """Return a hospital's cohort.toml; its split key follows from the seed alone."""
    halves = [derive(seed, hospital.name, "split key", i) for i in (0, 1)]
    return CohortConfig(
        name=hospital.name,
        path=hospital.path.resolve(),
        declared=hospital.declared,
        split_key="".join(f"{h:016x}" for h in halves),
        split=scenario.split,
        classes=hospital.classes,
    )


def _policy(plan: Plan, seed: int) -> Policy:
    """Return a simulated policy: seeded noise, and room for rounds repeated after a crash."""
    return Policy(
        epsilon=2 * plan.epsilon if plan.private else 1.0,
        delta=plan.delta,
        allow_unprotected=not plan.private,
        noise_seed=derive(seed, "noise"),
    )


def _is_finished(job: Job) -> bool:
    """Tell whether a job ended well."""
    store = Store(job.run_dir)
    row = store.job(job.name)
    store.close()
    return row is not None and row["status"] == "finished"


def state_at(run_dir: Path, job: str, plan: Plan, number: int) -> State:
    """Return a job's state after a round whose checkpoint is kept."""
    return load_state(at_round(checkpoint_folder(run_dir, job), number), digest=plan.digest)
