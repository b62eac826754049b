"""What the tests of faults do to real processes, and what they read in the files these leave."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.ledger import Ledger
from common.files import write_atomic
from server.store import Store
from tests.deployed_world import World, processes, until

Phase = tuple[str, int]
"""A phase of a round, as ('train', 3)."""

# Read by every Python of a deployment whose PYTHONPATH holds it. In an agent, and nowhere else, the
# ledger's clock is then behind by the seconds in the file `clock-back` of the site's folder.
CLOCK = """
import os, sys
if "client.rpc.service" in sys.orig_argv:
    from datetime import UTC, datetime, timedelta
    from client.ledger import Ledger

    def late():
        if not os.path.exists("clock-back"):
            return datetime.now(UTC)
        with open("clock-back") as file:
            return datetime.now(UTC) - timedelta(seconds=float(file.read()))

    Ledger.__init__.__kwdefaults__["now"] = late
"""


@dataclass(frozen=True)
class Hospital:
    """One hospital of a deployment."""

    world: World
    name: str

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.world.folder / self.name

    @property
    def ledger(self) -> Path:
        """Its ledger's file."""
        return self.folder / "ledger.sqlite"

    @property
    def agent(self) -> int:
        """The process of its agent."""
        return int((self.folder / "run" / "agent.pid").read_text())

    def bodies(self, kind: str) -> list[tuple[int, dict[str, Any]]]:
        """Return the ledger's entries of a kind: number and body."""
        with closing(sqlite3.connect(self.ledger, timeout=30.0)) as db:
            query = "SELECT seq, body FROM entries WHERE kind = ? ORDER BY seq"
            return [(seq, json.loads(body)) for seq, body in db.execute(query, (kind,))]

    def reserves(self, run: str, phase: Phase) -> list[bool]:
        """Return, for each reserve of a phase, whether it was committed."""
        wanted = (run, *phase)
        done = {body["reserve"] for _, body in self.bodies("commit")}
        found = self.bodies("reserve")
        return [n in done for n, b in found if (b["run"], b["phase"], b["round"]) == wanted]

    def has_answered(self, run: str, phase: Phase) -> bool:
        """Tell whether a phase was computed and committed."""
        return any(self.reserves(run, phase))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Hold the agent still; whoever asks it waits. It may be killed meanwhile."""
        agent = self.agent
        os.kill(agent, signal.SIGSTOP)
        try:
            yield
        finally:
            if self.agent == agent:
                os.kill(agent, signal.SIGCONT)

    def set_clock_back(self, seconds: float) -> None:
        """Set the clock of its ledger back, while its agent goes on."""
        write_atomic(self.folder / "clock-back", str(seconds))

    def kill_agent(self) -> None:
        """kill -9; its supervisor starts it again."""
        os.kill(self.agent, signal.SIGKILL)

    def kill_supernode(self) -> None:
        """kill -9 of Flower's SuperNode."""
        assert self.world.kill(rf"client\.running\.supernode .*{self.folder}/relay/") == 1


class Run:
    """A run that goes on: `server run` in a process of its own."""

    def __init__(self, world: World, study: Path) -> None:
        self._runs = world.folder / "coordinator" / "runs"
        before = set(self._runs.iterdir())
        self._command = world.start("server", "run", "coordinator", study, "--json")
        stores = lambda: {p.parent for p in self._runs.glob("*/run.sqlite")} - before  # noqa: E731
        self.folder: Path = until(stores, what="a run begins").pop()
        self.name = self.folder.name

    def end(self, *, timeout_s: float = 300.0) -> tuple[int, str, str]:
        """Wait for the command; return exit code, standard output and error."""
        out, err = self._command.communicate(timeout=timeout_s)
        return self._command.returncode, out, err

    def metrics(self) -> dict[str, Any]:
        """Wait for the run, which must succeed, and return what it says of itself."""
        code, out, err = self.end()
        assert code == 0, err
        return dict(json.loads(out))

    def check_books(self, *hospitals: Hospital) -> None:
        """Hold every ledger to its chain, and to what the coordinator got."""
        with closing(Store(self.folder)) as store:
            rows = store.replies(self.name)
        for hospital in hospitals:
            with closing(Ledger(hospital.ledger)) as ledger:
                assert ledger.verify().ok, f"{hospital.name}: {ledger.verify().what}"
                assert ledger.behind is None
                paid = sum(account.reserves for account in ledger.accounts())
            had = [row for row in rows if row["site"] == hospital.name]
            for row in had:
                if row["status"] == "ok":
                    assert hospital.has_answered(self.name, (row["phase"], row["round"]))
            assert max((row["reserves"] or 0 for row in had), default=0) <= paid


def missed(metrics: dict[str, Any], hospital: Hospital) -> dict[Phase, str]:
    """Return what a hospital missed, and why."""
    rows = [row for row in metrics["missed"] if row["site"] == hospital.name]
    return {(row["phase"], row["round"]): f"{row['status']}: {row['reason']}" for row in rows}


def until_online(world: World, *hospitals: Hospital) -> None:
    """Wait until the coordinator sees these hospitals."""
    wanted = {hospital.name for hospital in hospitals}

    def are_online() -> bool:
        rows = world.json("server", "status", "coordinator")["sites"]
        return wanted <= {row["name"] for row in rows if row["state"] == "online"}

    until(are_online, what=f"{wanted} online")


def serverapp(world: World) -> list[int]:
    """Return the process of the run's own program."""
    return processes(rf"flwr_serverapp .*{_port(world)}\b")


def superlink(world: World) -> list[int]:
    """Return the process of the SuperLink."""
    return processes(rf"flower_superlink .*{world.folder}/coordinator/")


def _port(world: World) -> int:
    text = (world.folder / "coordinator" / "server.toml").read_text()
    return int(text.partition("superlink_port = ")[2].split()[0])


def fill_disk(folder: Path) -> Path:
    """Take all space that a folder's disk has left; return the file that takes it."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue
    return path
