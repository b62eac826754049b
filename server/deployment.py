"""One run over real hospitals: from a study file to a model, a report, and who missed what.

The run lives in the SuperLink, not here: Ctrl-C only stops watching, and `resume` watches again.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import EngineError, GrandroundsError, RunError
from common.files import only_one, write_atomic
from common.plan import Plan, compile_study, read_plan, write_plan
from common.report.words import DEPLOYED
from common.schema import dump_toml
from common.study import load_study
from server.effects import effect_metrics
from server.house.bundle import write_app
from server.house.home import Home
from server.house.superlink import of, run_status, submit
from server.report import METRICS, write_pages
from server.results import deployed_privacy, run_metrics, write_model
from server.rounds.checkpoint import checkpoint_folder, latest, load_state
from server.store import FLOWER, Store, is_interrupted

Say = Callable[[str], None]

_POLL_S = 0.2


@dataclass(frozen=True)
class Run:
    """A run folder of a coordinator.

    Attributes:
        name: Its name, which is also the job's, and the run's at the hospitals: never used twice.
    """

    home: Home
    name: str

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.home.folder / "runs" / self.name

    @property
    def plan_path(self) -> Path:
        """The compiled study."""
        found = sorted((self.folder / "plans").glob("*.toml"))
        if len(found) != 1:
            raise RunError(
                f"run folder {str(self.folder)!r} holds {len(found)} plans, not one",
                remedy="start a new run with grandrounds server run",
            )
        return found[0]


def new_run(home: Home, study_path: Path, *, seed: int) -> Run:
    """Make the run folder of a study; nothing is sent yet.

    Raises:
        StudyError: the study is malformed or its privacy cannot be met.
    """
    study = load_study(study_path)
    plan = compile_study(study)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    # Hospitals answer a round of a run once: a name used before would get the answers of then.
    run = Run(home, f"{study.name}-{stamp}-{secrets.token_hex(3)}")
    run.folder.mkdir(parents=True)
    if study.model.weights is not None:
        shutil.copyfile(study_path.parent / study.model.weights, run.folder / study.model.weights)
    write_atomic(run.folder / "study.toml", dump_toml(study.model_dump(mode="json")))
    (run.folder / "plans").mkdir()
    write_plan(plan, run.folder / "plans")
    write_atomic(run.folder / FLOWER, json.dumps({"seed": seed, "runs": []}))
    return run


def find_run(home: Home, name: str) -> Run:
    """Return a run of that name.

    Raises:
        RunError: there is none.
    """
    run = Run(home, name)
    if not (run.folder / FLOWER).is_file():
        known = sorted(p.parent.name for p in (home.folder / "runs").glob(f"*/{FLOWER}"))
        raise RunError(
            f"coordinator {str(home.folder)!r} has no run {name!r}",
            remedy=f"its runs are {', '.join(known)}" if known else "start one with server run",
        )
    return run


def drive(run: Run, *, mode: str, say: Say) -> None:
    """Have the SuperLink carry the run, or go on watching it where it does already.

    Args:
        run: What to carry.
        mode: 'run', or 'deliver' to send the finished model to the hospitals.
        say: Told what happens, a line each.

    Raises:
        GrandroundsError: what stopped the run; it can be resumed.
    """
    with only_one(run.folder):
        number = _alive(run, mode)
        if number is None:
            number = _submit(run, mode)
            say(f"run {run.name} handed to the SuperLink (Flower run {number})")
        _watch(run, number)


def finish(run: Run, *, seconds: float) -> dict[str, Any]:
    """Write model, metrics and pages of a run that ended; return the metrics."""
    plan = plan_of(run)
    if plan.study.effect is not None:
        return _finish_effect(run, plan, seconds=seconds)
    newest = latest(checkpoint_folder(run.folder, run.name))
    if newest is None:
        raise RunError(f"run {run.name!r} has no checkpoint", remedy="resume it with server resume")
    write_model(run.folder, load_state(newest, digest=plan.digest).model, digest=plan.digest)
    return _write(run, run_metrics(plan, run.folder, run.name, seconds=seconds))


def _finish_effect(run: Run, plan: Plan, *, seconds: float) -> dict[str, Any]:
    """Write metrics and page of a run that trained nothing, so that there is no model."""
    with closing(Store(run.folder)) as store:
        privacy = deployed_privacy(plan, store, run.name)
    metrics = effect_metrics(
        plan, run.folder, run.name, engine=DEPLOYED, privacy=privacy, seconds=seconds
    )
    return _write(run, metrics)


def _write(run: Run, metrics: dict[str, Any]) -> dict[str, Any]:
    metrics = {"run": run.name, **metrics}
    write_atomic(run.folder / METRICS, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    write_pages(run.folder)
    return metrics


def deliveries(run: Run) -> list[dict[str, Any]]:
    """Return how each hospital took the model: site, status, reason."""
    store = Store(run.folder)
    rows = [r for r in store.replies(run.name) if r["phase"] == "deliver"]
    store.close()
    return [{key: row[key] for key in ("site", "status", "reason")} for row in rows]


def plan_of(run: Run) -> Plan:
    """Return the run's compiled study."""
    return read_plan(run.plan_path)


def _submit(run: Run, mode: str) -> int:
    known = _known(run)
    config = {
        "run-dir": str(run.folder.resolve()),
        "plan": str(run.plan_path.resolve()),
        "job": run.name,
        "seed": known["seed"],
        "nodes": 0,
        "mode": mode,
    }
    number = submit(run.home, write_app(run.home.app), config)
    known["runs"].append({"id": number, "mode": mode, "at": time.time()})
    write_atomic(run.folder / FLOWER, json.dumps(known))
    return number


def _known(run: Run) -> dict[str, Any]:
    """Read the seed, and which Flower runs carried this one."""
    path = run.folder / FLOWER
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        runs = [{**one, "id": int(one["id"]), "mode": str(one["mode"])} for one in values["runs"]]
        return {"seed": int(values["seed"]), "runs": runs}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{str(path)!r} cannot be read: {error!r}",
            remedy="restore it from a backup, or start a new run with grandrounds server run",
        ) from None


def _alive(run: Run, mode: str) -> int | None:
    """Return the Flower run that still carries this one, if there is one."""
    known, job = _known(run)["runs"], _job(run)
    if not known or known[-1]["mode"] != mode:
        return None
    try:
        status = run_status(run.home, known[-1]["id"])
    except KeyError:  # the SuperLink's state was begun anew
        return None
    except OSError as error:
        raise EngineError(
            f"the SuperLink does not answer: {error}",
            remedy=f"start it with grandrounds server start {run.home.folder}",
        ) from error
    if status.status == "finished":
        return None
    if job["status"] == "interrupted":  # the SuperLink itself takes a minute to notice
        with suppress(KeyError, OSError):  # it noticed just now
            of(run.home).stop_run(known[-1]["id"])
        return None
    return int(known[-1]["id"])


def _watch(run: Run, number: int) -> None:
    """Wait until the SuperLink has carried the run to its end, or its program was killed."""
    with closing(Store(run.folder)) as store:
        while (status := _status(run, number)).status != "finished":
            if is_interrupted(store, run.name):
                break
            time.sleep(_POLL_S)
    if status.sub_status != "completed":
        why = status.details or status.sub_status or "its program was killed"
        raise _cause(run) or EngineError(
            f"the run was given up: {why}",
            remedy=f"see {run.home.folder / 'run'}; then grandrounds server resume",
        )


def _status(run: Run, number: int) -> Any:
    """Ask how the run is doing; a SuperLink that restarts is given a minute."""
    end = time.monotonic() + 60.0
    while True:
        try:
            return run_status(run.home, number)
        except OSError as error:
            if time.monotonic() > end:
                raise EngineError(
                    f"the SuperLink does not answer: {error}",
                    remedy="start it with grandrounds server start, then server resume",
                ) from error
            time.sleep(1.0)


def _job(run: Run) -> dict[str, Any]:
    """Return the run's row in its store, which says so where its program was killed."""
    with closing(Store(run.folder)) as store:
        if is_interrupted(store, run.name):
            store.end(run.name, status="interrupted", message="killed", remedy="resume the run")
        return store.job(run.name) or {"status": "not started"}


def _cause(run: Run) -> GrandroundsError | None:
    """Return why the ServerApp itself says that it failed; one that was killed says nothing."""
    row = _job(run)
    return RunError(row["message"], remedy=row["remedy"]) if row["status"] == "failed" else None
