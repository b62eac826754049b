"""Two engines for one job: the same ServerApp and ClientApp, in this process or by `flwr run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import client.app
import server.app
from client.agent import close_agents
from common.errors import EngineError, GrandroundsError, RunError
from server.house.bundle import write_app
from server.store import Store
from simulations.flower_engine import FlowerRuntime
from simulations.grid import InProcessGrid, server_context


@dataclass(frozen=True)
class Job:
    """One federation to run: a compiled study over the hospitals whose folders a simulation wrote.

    Attributes:
        name: Unique in the run folder.
        plan: The plan's file.
        sites_dir: Holds one folder for each hospital.
    """

    name: str
    run_dir: Path
    plan: Path
    sites_dir: Path
    seed: int

    @property
    def sites(self) -> list[Path]:
        """The hospitals' folders, in the order of their names."""
        return sorted(p for p in self.sites_dir.iterdir() if p.is_dir())

    @property
    def run_config(self) -> dict[str, str | int | float | bool]:
        """What server and clients are told; absolute, for an engine works where it likes."""
        return {
            "run-dir": str(self.run_dir.resolve()),
            "plan": str(self.plan.resolve()),
            "sites-dir": str(self.sites_dir.resolve()),
            "job": self.name,
            "seed": self.seed,
            "nodes": len(self.sites),
        }


Engine = Callable[[Job], None]


@contextmanager
def open_engine(name: str, *, run_dir: Path) -> Iterator[Engine]:
    """Yield a function that runs jobs one after another.

    Args:
        name: 'inprocess' or 'flower'.
        run_dir: Where an engine may keep its own files.
    """
    if name == "inprocess":
        yield run_in_process
        return
    scratch = run_dir / "flower"
    app_dir = write_app(scratch / "app")
    with FlowerRuntime(scratch) as runtime:
        yield lambda job: _run_flower(job, runtime, app_dir)


def run_in_process(job: Job) -> None:
    """Run a job here, one hospital after another; a breakpoint in a client works."""
    nodes = {
        number: {"partition-id": number - 1, "num-partitions": len(job.sites)}
        for number in range(1, len(job.sites) + 1)
    }
    grid = InProcessGrid(client.app.app, nodes=nodes, run_config=job.run_config)
    try:
        server.app.app(grid, server_context(job.run_config))
    finally:
        close_agents()


def _run_flower(job: Job, runtime: FlowerRuntime, app_dir: Path) -> None:
    """Run a job under `flwr run`; where the ServerApp said why it failed, say that."""
    try:
        runtime.run(app_dir=app_dir, run_config=job.run_config, num_nodes=len(job.sites))
    except EngineError as error:
        cause = _recorded(job)
        raise (cause or error) from error


def _recorded(job: Job) -> GrandroundsError | None:
    store = Store(job.run_dir)
    row = store.job(job.name)
    store.close()
    if row is None or row["status"] != "failed":
        return None
    return RunError(row["message"], remedy=row["remedy"])
