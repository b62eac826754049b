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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_STOP_S = 3.0
_TAIL_LINES = 40
_LOG_BYTES = 16 * 2**20
_ANSI = re.compile(r"\x1b\[[0-9;]*m")

# What Flower would otherwise do on its own: report to its makers, look for updates, and install
# whatever an app asks for.
FLOWER_SWITCHES: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}

# The only settings of the machine that a process of ours inherits; secrets may stand in others.
_INHERITED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")

# Calls a Flower command's function, or runs a module, in a fresh Python. It ends when the program
# that started it dies, even by kill -9: a SuperLink on its own would live on.
_LAUNCH = """
import importlib, os, runpy, signal, sys, threading, time
module, function, watch = sys.argv[1:4]
sys.argv[:4] = [function.replace("_", "-")]
def guard(parent=os.getppid()):
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
if watch == "watch":
    threading.Thread(target=guard, daemon=True).start()
if function:
    getattr(importlib.import_module(module), function)()
else:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

# The same for a program that is not Python.
_WATCH = """
import os, signal, subprocess, sys, time
child = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
parent = os.getppid()
while child.poll() is None:
    if os.getppid() != parent:
        child.terminate()
    time.sleep(0.2)
sys.exit(child.returncode)
"""


def command_line(module: str, function: str, *, watch: bool) -> list[str]:
    """The command line that calls a Flower command's function with this very Python."""
    # -P keeps the working directory off sys.path, which Ray hands on to its workers.
    return [sys.executable, "-P", "-c", _LAUNCH, module, function, "watch" if watch else "-"]


def module_line(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module with this very Python, until whoever starts it dies."""
    return [sys.executable, "-P", "-c", _LAUNCH, module, "", "watch", *arguments]


def watched_line(*command: str) -> list[str]:
    """The command line that runs any program until whoever starts it dies."""
    return [sys.executable, "-S", "-P", "-c", _WATCH, *command]


def flower_environment(scratch: Path) -> dict[str, str]:
    """The environment of Flower's commands in a deployment: little of the machine's.

    Args:
        scratch: Has the folders `home`, for what Flower keeps, and `bin`, for commands of ours that
            it looks up on PATH.
    """
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    for name in _PROXIES:
        if value := os.environ.get(name, os.environ.get(name.upper())):
            kept |= {name: value, name.upper(): value}
    direct = ",".join(filter(None, [kept.get("no_proxy"), "127.0.0.1", "localhost"]))
    return {
        **kept,
        **FLOWER_SWITCHES,
        "PATH": f"{scratch / 'bin'}{os.pathsep}{os.defpath}",
        "HOME": str(scratch / "home"),
        "FLWR_HOME": str(scratch / "home"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        "PYTHONUNBUFFERED": "1",
        "no_proxy": direct,
        "NO_PROXY": direct,
    }


def write_shim(
    path: Path, *, module: str, function: str, log: Path, first: Sequence[str] = ()
) -> None:
    """Make a command that calls a Flower command's function and appends what it prints to a log.

    Args:
        path: The command.
        module: Of the function.
        function: What it calls.
        log: Takes what is printed.
        first: A command line that may do it instead; where it fails, the function is called.
    """
    to_log = f'"$@" >>{shlex.quote(str(log))} 2>&1'
    instead = f"{shlex.join(first)} {to_log} && exit 0\n" if first else ""
    command = shlex.join(command_line(module, function, watch=True))
    path.write_text(f"#!/bin/sh\n{instead}exec {command} {to_log}\n", encoding="utf-8")
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


def keep_short(log: Path) -> None:
    """Begin a log anew beyond 16 MiB; the last 16 MiB of what it held become `NAME.1`.

    Whoever writes it goes on, for they append; the lines of the moment in between are lost. On a
    full disk, so is what it held.
    """
    with suppress(OSError):
        size = log.stat().st_size
        if size <= _LOG_BYTES:
            return
        with suppress(OSError), log.open("rb") as source:
            source.seek(size - _LOG_BYTES)
            with open(log.with_name(f"{log.name}.1"), "wb", opener=_for_its_owner) as older:
                older.write(source.read(_LOG_BYTES))
        os.truncate(log, 0)


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
