"""Flower's ServerApp: runs one job from the plan and the run folder on the coordinator's disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import GrandroundsError, RunError, is_disk_full
from common.models import initial_params
from common.plan import read_plan
from common.running.daemon import hold
from server.rounds.delivery import deliver
from server.rounds.federation import LOG, Federation, enrolled_at
from server.rounds.loop import collect_effects, run
from server.store import Store, program

MODES = ("run", "deliver")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job that the run configuration names, or deliver its model.

    `run-dir` is the run folder, `plan` the compiled study in it, `job` the job's name, `seed` the
    seed of the initial weights, `nodes` how many hospitals are expected (0: start at the quorum)
    and `mode` 'run' or 'deliver'. How a run ended is in the run store; a delivery leaves that as
    it is.
    """
    config = context.run_config
    run_dir, job = Path(str(config["run-dir"])), str(config["job"])
    plan, seed = read_plan(Path(str(config["plan"]))), int(config["seed"])
    mode = str(config.get("mode") or MODES[0])
    if mode not in MODES:
        raise RunError(f"mode is {mode!r}", remedy=f"give one of {', '.join(MODES)}")
    if type(grid).__module__.startswith("flwr."):
        _log_to_terminal()
    # A simulation's nodes are enrolled nowhere, and its jobs share a folder.
    folder = None if config.get("sites-dir") else run_dir.parent.parent
    alone = nullcontext() if folder is None else hold(program(run_dir))
    with alone, closing(Store(run_dir)) as store:
        federation = Federation(
            grid, plan, job, store, run_dir, expected=int(config["nodes"]),
            enrolled=lambda: enrolled_at(folder),
        )  # fmt: skip
        if mode == "deliver":
            deliver(federation)
            return
        store.start(job, digest=plan.digest, code=str(Path(__file__).parent))
        with _recorded(store, job):
            if plan.study.effect is not None:
                collect_effects(federation)
                return
            run(federation, lambda: initial_params(plan.study, seed=seed, folder=run_dir))


def _log_to_terminal() -> None:
    """Show what happens in the log of Flower's process; nobody else sets up logging there."""
    if not LOG.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)


@contextmanager
def _recorded(store: Store, job: str) -> Iterator[None]:
    """Write how the job ended into the store, whatever happens."""
    try:
        yield
    except KeyboardInterrupt:
        store.end(job, status="interrupted", message="interrupted", remedy="resume the run")
        raise
    except Exception as error:
        told = _told(error, store)
        with suppress(OSError, RunError):  # on a full disk the error itself has to do
            store.end(job, status="failed", message=told.message, remedy=told.remedy)
        if is_disk_full(error):
            raise told from error
        raise
    store.end(job, status="finished")


def _told(error: Exception, store: Store) -> GrandroundsError:
    if isinstance(error, GrandroundsError):
        return error
    if is_disk_full(error):
        message = f"the disk of {str(store.path.parent)!r} is full"
        return RunError(message, remedy="free some space, then resume the run")
    return RunError(repr(error), remedy="report this as a defect, then resume the run")
