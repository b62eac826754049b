"""A coordinator and hospitals as real processes on loopback, driven by the command line alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from common.errors import EngineError

COMMAND = (sys.executable, "-P", "-c", "from common.cli import main; main()")

_STOP_S = 300.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Deployed:
    """A folder with a coordinator and its hospitals; leave it with `with`, and all stop.

    Attributes:
        folder: Keep its path short: hospitals have Unix sockets in it.
        sites: Name -> folder of each hospital that was let in.
        environment: What is added to that of each command.
    """

    folder: Path
    sites: dict[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: {"OMP_NUM_THREADS": "1"})

    def __enter__(self) -> Self:
        port = str(free_port())
        self.run("server", "init", "coordinator", "--host", "localhost", "--port", port)
        return self

    def __exit__(self, *_: object) -> None:
        stops = [self.start("site", "stop", name) for name in self.sites]
        for command in stops:
            command.communicate(timeout=_STOP_S)
        self.call("server", "stop", "coordinator")

    def start(self, *arguments: Any) -> subprocess.Popen[str]:
        """Start a command and return it."""
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: Any, timeout_s: float = 300.0) -> tuple[int, str, str]:
        """Run a command to its end; return exit code, standard output and error."""
        command = self.start(*arguments)
        out, err = command.communicate(timeout=timeout_s)
        return command.returncode, out, err

    def run(self, *arguments: Any, timeout_s: float = 300.0) -> str:
        """Run a command that must succeed; return what it prints.

        Raises:
            EngineError: it does not.
        """
        code, out, err = self.call(*arguments, timeout_s=timeout_s)
        if code != 0:
            words = " ".join(map(str, arguments))
            raise EngineError(
                f"grandrounds {words} ended with {code}:\n{out}\n{err}",
                remedy=f"see the logs below {self.folder}",
            )
        return out

    def json(self, *arguments: Any, timeout_s: float = 300.0) -> Any:
        """Run a command with --json and return what it says."""
        return json.loads(self.run(*arguments, "--json", timeout_s=timeout_s))

    def enrol(self, name: str, data: Path, *, declared: int, epsilon: float = 3.0) -> Path:
        """Make a hospital, enrol it, and let it join."""
        self.make(name, data, declared=declared, epsilon=epsilon)
        return self.let_in(name)

    def make(self, name: str, data: Path, *, declared: int, epsilon: float = 3.0) -> Path:
        """Make a hospital that no coordinator knows."""
        size = ("--declared", declared, "--epsilon", epsilon)
        self.run("site", "init", name, "--name", name, "--data", data, *size, "--yes")
        return self.folder / name

    def let_in(self, name: str) -> Path:
        """Enrol a hospital and let it join."""
        key = self.folder / name / "keys" / "node.pub"
        self.run("server", "enroll", "coordinator", "--name", name, "--key", key)
        self.run("site", "join", name, Path("coordinator", "kits", f"{name}.zip"))
        self.sites[name] = self.folder / name
        return self.sites[name]
