"""The processes that this program starts: how one is called, where its words go, how all are ended.

They form one process group with all that they start, and end when the program that started them
dies. POSIX only.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

_STOP_S = 3.0
_TAIL_LINES = 40
_ANSI = re.compile(r"\x1b\[[0-9;]*m")

# Calls a Flower command's function in a fresh Python. It ends when the program that started it
# dies, even by kill -9: a SuperLink on its own would live on.
_LAUNCH = """
import importlib, os, signal, sys, threading, time
module, function, watch = sys.argv[1:4]
sys.argv[:4] = [function.replace("_", "-")]
def guard(parent=os.getppid()):
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
if watch == "watch":
    threading.Thread(target=guard, daemon=True).start()
getattr(importlib.import_module(module), function)()
"""


def command_line(module: str, function: str, *, watch: bool) -> list[str]:
    """The command line that calls a Flower command's function with this very Python."""
    # -P keeps the working directory off sys.path, which Ray hands on to its workers.
    return [sys.executable, "-P", "-c", _LAUNCH, module, function, "watch" if watch else "-"]


def write_shim(path: Path, *, module: str, function: str, log: Path) -> None:
    """Make a command that calls a Flower command's function and appends what it prints to a log."""
    command = shlex.join(command_line(module, function, watch=True))
    path.write_text(
        f'#!/bin/sh\nexec {command} "$@" >>{shlex.quote(str(log))} 2>&1\n', encoding="utf-8"
    )
    path.chmod(0o755)


def end_group(children: Sequence[subprocess.Popen[bytes]], *, orderly: bool) -> None:
    """End the group that the first of `children` leads, and wait for them.

    Args:
        children: Members that this process started, the leader first; none, and nothing is done.
        orderly: Whether to let them put things in order first, for a few seconds.
    """
    if not children:
        return
    group = children[0].pid
    try:
        if orderly and _signal_group(group, signal.SIGTERM):
            end = time.monotonic() + _STOP_S
            while _signal_group(group, 0) and time.monotonic() < end:
                for child in children:
                    child.poll()
                time.sleep(0.05)
    finally:
        _signal_group(group, signal.SIGKILL)
        for child in children:
            child.wait()


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; return whether the group still has a member."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


class Tail:
    """Reads a growing log from its present end, line by line, and keeps the last lines."""

    def __init__(self, path: Path, on_line: Callable[[str], None] | None) -> None:
        self._path = path
        self._offset = path.stat().st_size
        self._on_line = on_line
        self._partial = b""
        self._last: deque[str] = deque(maxlen=_TAIL_LINES)

    def pump(self) -> None:
        """Take what was written since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        self._offset += len(new)
        *lines, self._partial = (self._partial + new).split(b"\n")
        for raw in lines:
            line = _ANSI.sub("", raw.decode(errors="replace")).rstrip()
            self._last.append(line)
            if self._on_line is not None:
                self._on_line(line)

    def text(self) -> str:
        """The last lines, indented."""
        self.pump()
        return textwrap.indent("\n".join(self._last), "  ")


def last_lines(path: Path) -> str:
    """The last lines of a log, indented."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return textwrap.indent(_ANSI.sub("", "\n".join(lines)), "  ")
