"""A program that runs on its own for a folder: at most one, found again, and told to stop. POSIX.

Its pid file is locked for as long as it lives. The system lets go of the lock when the program
ends, however it ends, so a file left behind by a crash does no harm.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from common.errors import GrandroundsError, RunError
from common.running.processes import last_lines

_POLL_S = 0.1
_TRIES, _MOMENT_S = 10, 0.02


@contextmanager
def hold(pid_file: Path) -> Iterator[None]:
    """Be the one that runs, within this block.

    Raises:
        RunError: another process is.
    """
    with pid_file.open("a+", encoding="utf-8") as file:
        if not _locks(file):
            raise RunError(
                f"{pid_file} is held by process {_number(pid_file)}: it runs already",
                remedy="use it as it is, or stop it first",
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _locks(file: TextIO) -> bool:
    """Lock a pid file; who only looks whether somebody holds it (`holder`) has it for a moment."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_MOMENT_S)
        else:
            return True
    return False


def holder(pid_file: Path) -> int | None:
    """Return the id of the process that runs, or None where none does."""
    try:
        with pid_file.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _number(pid_file)
    return None


def _number(pid_file: Path) -> int | None:
    """The number in a pid file; None in the moment before it is written."""
    text = pid_file.read_text(encoding="utf-8").strip()
    return int(text) if text.isdecimal() else None


def stop(pid_file: Path, *, timeout_s: float) -> bool:
    """End the process that runs in an orderly way, and wait for it.

    Returns:
        Whether one ran.

    Raises:
        RunError: it does not end in time, or belongs to another user.
    """
    pid = holder(pid_file)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise RunError(
            f"process {pid} belongs to another user", remedy="stop it as that user, or as root"
        ) from None
    end = time.monotonic() + timeout_s
    while holder(pid_file) is not None:
        if time.monotonic() > end:
            raise RunError(
                f"process {pid} did not end within {timeout_s:.0f} s",
                remedy=f"see its log beside {pid_file}; `kill -9 {pid}` ends it the hard way",
            )
        time.sleep(_POLL_S)
    return True


def start(
    module: str,
    *arguments: str,
    log: Path,
    env: Mapping[str, str],
    ready: Callable[[], bool],
    timeout_s: float,
) -> int:
    """Start a module as a program on its own, and wait until it is ready.

    Args:
        module: Run as `python -P -m MODULE ARGUMENTS`.
        arguments: Its arguments.
        log: Takes what it prints, from its start on.
        env: Its environment.
        ready: Says whether it is; asked again and again.
        timeout_s: How long it may take.

    Returns:
        Its process id.

    Raises:
        RunError: it ended, or was not ready in time; then it is ended.
    """
    command: Sequence[str] = (sys.executable, "-P", "-m", module, *arguments)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    end = time.monotonic() + timeout_s
    while not ready():
        late = time.monotonic() > end
        if late or process.poll() is not None:
            process.terminate()
            process.wait()
            if not late and (told := _told(log)):
                raise told
            happened = f"was not ready within {timeout_s:.0f} s" if late else "ended at once"
            raise RunError(f"{module} {happened}:\n{last_lines(log)}", remedy=f"see {log.parent}")
        time.sleep(_POLL_S)
    process.returncode = 0  # it lives on; nobody waits for it
    return process.pid


def complain(error: GrandroundsError) -> str:
    """Return an error as a program on its own writes it last, for `start` to find."""
    return f"error: {error}"


def _told(log: Path) -> RunError | None:
    """Return the error that a program wrote last, if it was one of ours."""
    said = log.read_text(encoding="utf-8", errors="replace")
    _, found, last = said.rpartition("error: ")
    message, parted, remedy = last.partition("\n  remedy: ")
    return RunError(message.strip(), remedy=remedy.strip()) if found and parted else None
