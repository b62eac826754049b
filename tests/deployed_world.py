"""A deployment of real processes, with what only tests do to it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from simulations.deployed import Deployed


def until(condition: Callable[[], Any], *, what: str, timeout_s: float = 120.0) -> Any:
    """Wait for a condition of another process, and return its value."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.05)
    return value


class World(Deployed):
    """A deployment that the tests also harm, and whose results they read."""

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
