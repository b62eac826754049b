"""One job: a plan, the hospitals it runs over, and where its state lies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.serverapp import Grid

from common.plan import Plan
from common.schema import read_toml
from common.wire import Envelope
from server.rounds.checkpoint import checkpoint_folder
from server.store import Store

LOG = logging.getLogger("grandrounds.server")


@dataclass(frozen=True)
class Member:
    """A site that takes part."""

    node: int
    name: str
    declared: int


@dataclass(frozen=True)
class Federation:
    """One job over the nodes of a grid.

    Attributes:
        job: Its name, which is also the run's name at the sites.
        expected: How many nodes to wait for before the start; the quorum where it is 0.
        enrolled: Returns the name that each enrolled node was given; empty in a simulation.
    """

    grid: Grid
    plan: Plan
    job: str
    store: Store
    run_dir: Path
    expected: int = 0
    enrolled: Callable[[], Mapping[int, str]] = dict

    @property
    def folder(self) -> Path:
        """Where the checkpoints lie."""
        return checkpoint_folder(self.run_dir, self.job)

    def request(self, kind: str, number: int, payload: bytes = b"", **more: object) -> Envelope:
        """Return the request for one phase of one round."""
        names = {"kind": kind, "digest": self.plan.digest, "run": self.job, "round": number}
        return Envelope({**names, **more}, payload)


def enrolled_at(folder: Path | None) -> dict[int, str]:
    """Return the name of every enrolled node, from a coordinator's folder; none where it has none.

    Read anew each time, as sites are enrolled while a run goes on.
    """
    path = None if folder is None else folder / "sites.toml"
    if path is None or not path.is_file():
        return {}
    sites = read_toml(path, what="sites").get("site", [])
    return {s["node"]: s["name"] for s in sites if s.get("node") is not None}
