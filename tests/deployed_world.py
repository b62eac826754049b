"""A coordinator and hospitals as real processes on loopback, driven by the command line alone."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

COMMAND = (sys.executable, "-P", "-c", "from common.cli import main; main()")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], *, what: str, timeout_s: float = 120.0) -> Any:
    """Wait for a condition of another process, and return its value."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.05)
    return value


@dataclass
class World:
    """A folder with a coordinator and its hospitals; leave it with `with`."""

    folder: Path
    sites: dict[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: {"OMP_NUM_THREADS": "1"})

    def __enter__(self) -> World:
        port = str(free_port())
        self.run("server", "init", "coordinator", "--host", "localhost", "--port", port)
        return self

    def __exit__(self, *_: object) -> None:
        stops = [self.start("site", "stop", name) for name in self.sites]
        for command in stops:
            command.communicate(timeout=300.0)
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
        """Run a command that must succeed; return what it prints."""
        code, out, err = self.call(*arguments, timeout_s=timeout_s)
        assert code == 0, f"{' '.join(map(str, arguments))} ended with {code}:\n{out}\n{err}"
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

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Kill the processes of which the command line holds some words; return how many."""
        killed = 0
        for process in processes(name):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue
            killed += 1
        return killed

    def weights(self, run: str) -> Any:
        """Return the final weights of a run."""
        return load_file(self.folder / "coordinator" / "runs" / run / "model.safetensors")

    def missed(self, metrics: Mapping[str, Any]) -> set[tuple[str, int, str]]:
        """Return (hospital, round, phase) of what was missed."""
        return {(row["site"], row["round"], row["phase"]) for row in metrics["missed"]}


def processes(pattern: str) -> list[int]:
    """Return the processes whose command line fits a pattern."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if re.search(pattern, words) and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def set_values(path: Path, **values: str) -> None:
    """Set keys of a TOML file that a person edits; values are TOML."""
    text = path.read_text(encoding="utf-8")
    for key, value in values.items():
        line = f"{key} = {value}"
        text, count = re.subn(rf"^#? ?{key} = .*$", lambda _, new=line: new, text, flags=re.M)
        if count == 0:
            text = f"{line}\n{text}"
    path.write_text(text, encoding="utf-8")
