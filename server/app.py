"""Flower's ServerApp: reads the plan and the run folder from the coordinator's disk and runs one job."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import GrandroundsError, RunError, is_disk_full
from common.models import initial_params
from common.plan import read_plan
from server.rounds import Federation, run
from server.store import Store

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job that the run configuration names.

    `run-dir` is the run folder, `plan` the compiled study in it, `job` the job's name, `seed` the seed
    of the initial weights and `nodes` how many hospitals are expected (0: start at the quorum). How
    it ended is in the run store.
    """
    config = context.run_config
    run_dir, job = Path(str(config["run-dir"])), str(config["job"])
    plan = read_plan(Path(str(config["plan"])))
    store = Store(run_dir)
    try:
        store.start(job, digest=plan.digest, code=str(Path(__file__).parent))
        federation = Federation(grid, plan, job, store, run_dir, expected=int(config["nodes"]))
        seed = int(config["seed"])
        run(federation, lambda: initial_params(plan.study, seed=seed, folder=run_dir))
        store.end(job, status="finished")
    except KeyboardInterrupt:
        store.end(job, status="interrupted", message="interrupted", remedy="resume the run")
        raise
    except GrandroundsError as error:
        store.end(job, status="failed", message=error.message, remedy=error.remedy)
        raise
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise RunError(
            f"the disk of {str(run_dir)!r} is full", remedy="free some space, then resume the run"
        ) from error
    finally:
        store.close()

