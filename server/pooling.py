"""A run folder's hospitals pooled anew, from what it holds of their releases."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import RunError, StudyError
from common.meta.effects import auc_from_interval
from common.meta.federated import pool_released
from common.meta.released import Released, wald
from common.plan import Plan, read_plan
from common.report.fewshot_values import FEW_SHOT
from common.report.loho_values import LEAVE_ONE_OUT
from server.effects import SCORES, effects_of, measures_of
from server.report import read_metrics
from server.store import METRICS, Store


def from_run(
    run_dir: Path,
    *,
    measure: str | None = None,
    method: str = "REML",
    test: str = "z",
    job: str | None = None,
    arm: str | None = None,
    shots: int | None = None,
) -> dict[str, Any]:
    """Pool a run's hospitals.

    Of `sim run` and `server run` it is what the hospitals of one job released, with its noise; of
    `sim loho` the exact figures at the hospitals that were left out, which only a simulation has.

    Args:
        run_dir: The run folder.
        measure: What to pool; the study's own, or the AUC, where it is left out.
        method: As of `common.meta.analysis.analyse`.
        test: Likewise.
        job: Whose releases; those of the run's main arm under the first seed where left out.
        arm: Of `sim loho`: whose model.
        shots: Of `sim loho`: how many labelled patients it had met.

    Returns:
        The values of `common.meta.federated.pool_released`, with `title`, `run_dir` and `source`.

    Raises:
        RunError: the folder holds no run, or not what is asked for.
        DataError: no hospital's figure can be pooled.
    """
    if not run_dir.is_dir():
        raise RunError(
            f"there is no run folder {str(run_dir)!r}", remedy="give the folder that a run named"
        )
    metrics = read_metrics(run_dir) if (run_dir / METRICS).is_file() or job is None else {}
    if metrics.get("kind") == FEW_SHOT:
        raise RunError(
            f"{str(run_dir)!r} holds a run of sim fewshot, whose hospitals release nothing",
            remedy="give the folder of sim run, sim loho or server run",
        )
    if metrics.get("kind") == LEAVE_ONE_OUT:
        _refuse("--job", job, "sim loho, whose figures are exact")
        name, number = arm or str(metrics["main_arm"]), str(shots or 0)
        measure = _measure(measure, SCORES)
        found = left_out(metrics, measure=measure, arm=name, shots=number)
        source = f"exact figures of {name} with {number} labelled patients, sim loho"
    else:
        _refuse("--arm", arm, "one job of a run: use --job")
        _refuse("--shots", shots, "sim loho")
        with closing(Store(run_dir)) as store:
            job = job or _main_job(metrics, store)
            plan = _plan_of(run_dir, store, job)
            measure = _measure(measure, measures_of(plan))
            found = effects_of(plan, store, job, measure=measure)
        source = f"released in job {job}"
    title = str(metrics.get("title") or metrics.get("study") or run_dir.name)
    values = pool_released(measure, found, method=method, test=test)
    return {**values, "title": title, "run_dir": str(run_dir), "source": source}


def _refuse(option: str, value: object, of: str) -> None:
    if value is not None:
        raise StudyError(f"{option} is {value}, and this is {of}", remedy=f"leave {option} out")


def _measure(asked: str | None, known: tuple[str, ...]) -> str:
    name = known[0] if asked is None else asked.upper()
    if name not in known:
        raise StudyError(
            f"--measure is {asked!r}, and this run's hospitals tell {', '.join(known)}",
            remedy="use one of those",
        )
    return name


def _main_job(metrics: Mapping[str, Any], store: Store) -> str:
    """Return the job that the run's report is about."""
    jobs = [row["job"] for row in store.jobs()]
    named = metrics.get("job") or metrics.get("run")
    if named is None:
        named = f"{metrics.get('main_arm')}-seed-{metrics.get('seed')}"
    if named in jobs:
        return str(named)
    raise RunError(
        "the run's main arm is not federated, so that no hospital released anything of it",
        remedy=f"name a job with --job: {', '.join(jobs) or 'the run has none'}",
    )


def _plan_of(run_dir: Path, store: Store, job: str) -> Plan:
    row = store.job(job)
    if row is None:
        known = ", ".join(r["job"] for r in store.jobs()) or "none"
        raise RunError(f"the run has no job {job!r}", remedy=f"its jobs are {known}")
    return read_plan(run_dir / "plans" / f"{row['digest']}.toml")


def left_out(
    metrics: Mapping[str, Any], *, measure: str, arm: str, shots: str
) -> dict[str, Released]:
    """Return the figures of the hospitals that `sim loho` left out, which are exact.

    Args:
        metrics: Of the run.
        measure: `AUC`, with the variance that its interval tells, or `OE`, with (1 - O/N) / O.
        arm: Whose model.
        shots: How many labelled patients it had met.

    Raises:
        RunError: there is no such arm, or no such number of patients.
    """
    rows = {name: by_shots.get(shots, {}) for name, by_shots in metrics["held_out"].items()}
    arms = sorted({name for row in rows.values() for name in row})
    if arm not in arms:
        known = ", ".join(arms) or f"none with {shots} labelled patients"
        raise RunError(
            f"the run has no arm {arm!r} with {shots} labelled patients",
            remedy=f"its arms are {known}; its numbers {metrics['shots']}",
        )
    patients = {c["name"]: c for c in metrics["centres"] if c["status"] == "took part"}
    return {
        name: _left_out(row[arm], patients.get(name, {}), measure)
        for name, row in sorted(rows.items())
        if arm in row
    }


def _left_out(row: Mapping[str, Any], centre: Mapping[str, Any], measure: str) -> Released:
    if measure == "AUC":
        ends = [row["auc"], row["auc_low"], row["auc_high"]]
        if None in ends:
            return Released(None, None, None, why="its AUC is not defined")
        y, v = auc_from_interval(*np.array(ends, dtype=np.float64)[:, None])
        return wald(float(y[0]), float(v[0]), 0.0)
    events, patients = centre.get("outcomes") or 0.0, centre.get("patients") or 0.0
    ratio = row.get("observed_expected")
    if not ratio or not 0 < events < patients:
        return Released(None, None, None, why="its O/E is not defined")
    return wald(float(np.log(ratio)), 1 / events - 1 / patients, 0.0)
