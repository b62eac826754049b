"""Processes that must not stay down: started, watched, started again, ended in order. POSIX only.

Each child leads its own process group. One that ends is started again after a wait that doubles
from one second to 75: Flower refuses a SuperNode that was killed for 60 seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from common.running.processes import keep_short

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 75.0
_HEALTHY_S = 120.0
_POLL_S = 0.2
_MOMENT_S = 0.05


@dataclass(frozen=True)
class Child:
    """A process to keep running.

    Attributes:
        name: What events call it.
        command: Its command line.
        env: Its whole environment.
        cwd: Its working directory.
        log: Takes what it prints; see `keep_short`, as for all logs (`*.log`) of its folder.
        user: The OS user it runs as, where that is another; only root can.
        grace_s: Seconds it has to put things in order before it is killed.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    user: str | None = None
    grace_s: float = 10.0


@dataclass(frozen=True)
class Event:
    """What happened to a child.

    Attributes:
        code: How it ended: its exit code, or minus the signal.
        restart_s: Seconds until it is started again.
        reason: Why it could not be started.
    """

    child: str
    what: Literal["started", "ended", "failed", "stopped", "killed"]
    pid: int | None = None
    code: int | None = None
    restart_s: float | None = None
    reason: str = ""

    @property
    def is_expected(self) -> bool:
        """Whether all is well."""
        return self.what in ("started", "stopped")

    def text(self) -> str:
        """The event as a sentence."""
        again = f"; it starts again in {self.restart_s:.0f} s" if self.restart_s else ""
        match self.what:
            case "started":
                return f"{self.child} started as process {self.pid}"
            case "ended":
                return f"{self.child} ended unexpectedly ({_how(self.code)}){again}"
            case "failed":
                return f"{self.child} cannot be started ({self.reason}){again}"
            case "stopped":
                return f"{self.child} stopped ({_how(self.code)})"
            case "killed":
                return f"{self.child} did not stop in time and was killed"


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


class Process(Protocol):
    """A running child: a process and all that it started."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def poll(self) -> int | None:
        """Its exit code once it ended."""

    def send(self, number: int) -> None:
        """Send it, and all that it started, a signal."""


class Stop(Protocol):
    """Says when to stop; a `threading.Event` does."""

    def is_set(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float) -> bool:
        """Wait, at most for `timeout` seconds."""


@dataclass(frozen=True)
class _Group:
    """A process that leads a group."""

    leader: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.leader.pid

    def poll(self) -> int | None:
        return self.leader.poll()

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.leader.pid, number)


def spawn(child: Child) -> Process:
    """Start a child in its own process group.

    Raises:
        OSError: its program or folder is missing, or this user may not run it so.
    """
    # What a child writes is for its own user, unless it says otherwise. Another user's process
    # starts without this one's groups.
    other = {"user": child.user, "group": _group_of(child.user), "extra_groups": ()}
    descriptor = os.open(child.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        leader = subprocess.Popen(
            list(child.command),
            cwd=child.cwd,
            env=dict(child.env),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            process_group=0,
            umask=0o077,
            **(other if child.user else {}),  # type: ignore[call-overload]
        )
    except subprocess.SubprocessError as error:  # what the new process could not do before it ran
        raise OSError(str(error)) from error
    finally:
        os.close(descriptor)
    return _Group(leader)


def _group_of(user: str | None) -> int | None:
    if user is None:
        return None
    import pwd  # not on every platform

    return pwd.getpwnam(user).pw_gid


@dataclass
class _Post:
    """What is known of a child: its process, when it started, when it starts again."""

    child: Child
    process: Process | None = None
    since: float = 0.0
    due: float = 0.0
    wait_s: float = field(default=_FIRST_WAIT_S)


def supervise(
    children: Sequence[Child],
    *,
    stop: Stop,
    on_event: Callable[[Event], None] = lambda event: None,
    start: Callable[[Child], Process] = spawn,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Keep children running until told to stop, then end them, the last one first.

    A child that ends is started again after 1, 2, 4, ... 75 seconds; two minutes of health and the
    count begins anew. A child that cannot be started is tried again in the same way.

    Args:
        children: In the order in which they start.
        stop: Set when all shall end.
        on_event: Told of each start and end.
        start: Starts a child.
        clock: Seconds that only grow.
        sleep: Waits, while children end.
    """
    posts = [_Post(child) for child in children]
    folders = {child.log.parent for child in children}
    try:
        while not stop.is_set():
            for log in (log for folder in folders for log in folder.glob("*.log")):
                keep_short(log)
            for post in posts:
                _tend(post, start, clock(), on_event)
            stop.wait(_POLL_S)
    finally:
        for post in reversed(posts):
            _end(post, clock, sleep, on_event)


def _tend(
    post: _Post, start: Callable[[Child], Process], now: float, on_event: Callable[[Event], None]
) -> None:
    """Notice that a child ended; start it when its time has come."""
    name = post.child.name
    if post.process is not None:
        if (code := post.process.poll()) is None:
            return
        post.process.send(signal.SIGKILL)  # what it leaves behind would be in its successor's way
        if now - post.since >= _HEALTHY_S:
            post.wait_s = _FIRST_WAIT_S
        pid, post.process = post.process.pid, None
        on_event(Event(name, "ended", pid=pid, code=code, restart_s=_postpone(post, now)))
    elif now >= post.due:
        try:
            post.process, post.since = start(post.child), now
        except OSError as error:
            on_event(Event(name, "failed", reason=str(error), restart_s=_postpone(post, now)))
        else:
            on_event(Event(name, "started", pid=post.process.pid))


def _postpone(post: _Post, now: float) -> float:
    """Set when a child starts again; return in how many seconds."""
    wait_s = post.wait_s
    post.due, post.wait_s = now + wait_s, min(2 * wait_s, _LONGEST_WAIT_S)
    return wait_s


def _end(
    post: _Post,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    on_event: Callable[[Event], None],
) -> None:
    """End a child: in order if it can within its time."""
    process = post.process
    if process is None:
        return
    process.send(signal.SIGTERM)
    limit = clock() + post.child.grace_s
    while (code := process.poll()) is None and clock() < limit:
        sleep(_MOMENT_S)
    process.send(signal.SIGKILL)  # to what it started, too
    while process.poll() is None:
        sleep(_MOMENT_S)
    what: Literal["stopped", "killed"] = "killed" if code is None else "stopped"
    on_event(Event(post.child.name, what, pid=process.pid, code=code))


@contextmanager
def until_signal() -> Iterator[threading.Event]:
    """Give an event that SIGTERM and SIGINT set, within this block."""
    stop = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
