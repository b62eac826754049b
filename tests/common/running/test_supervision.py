"""Supervision with invented time: back-off, health, orderly ends; and once with real processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.running.supervision import Child, Event, Process, supervise, until_signal


@dataclass
class World:
    """A clock that moves only when somebody waits, and children that end when it is told."""

    lives_s: dict[str, list[float]]
    until_s: float
    obeys: bool = True
    now: float = 0.0
    events: list[tuple[float, Event]] = field(default_factory=list)
    signals: list[tuple[str, int]] = field(default_factory=list)

    def is_set(self) -> bool:
        return self.now >= self.until_s

    def wait(self, timeout: float) -> bool:
        self.now += timeout
        return self.is_set()

    def start(self, child: Child) -> Process:
        lives = self.lives_s[child.name]
        life = lives.pop(0) if lives else 1e9
        if life < 0:
            raise OSError("no such program")
        return FakeProcess(self, child.name, self.now + life)

    def watch(self, event: Event) -> None:
        self.events.append((round(self.now, 1), event))

    def run(self) -> None:
        children = [child_of(name) for name in self.lives_s]
        supervise(
            children,
            stop=self,
            on_event=self.watch,
            start=self.start,
            clock=lambda: self.now,
            sleep=lambda seconds: self.wait(seconds) and None,
        )

    def times(self, what: str) -> list[float]:
        return [at for at, event in self.events if event.what == what]


@dataclass
class FakeProcess:
    world: World
    name: str
    ends_at: float
    pid: int = 7
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None and self.world.now >= self.ends_at:
            self.code = 3
        return self.code

    def send(self, number: int) -> None:
        self.world.signals.append((self.name, number))
        if self.code is None and (number == signal.SIGKILL or self.world.obeys):
            self.code = -number


def child_of(name: str) -> Child:
    return Child(name, ("true",), {}, Path("/"), Path("/dev/null"))


def test_a_dying_child_comes_back_after_one_two_four_up_to_75_seconds() -> None:
    world = World({"a": [0.0] * 9}, until_s=400.0)
    world.run()
    waits = [event.restart_s for _, event in world.events if event.what == "ended"]
    # Together beyond the 60 s for which Flower refuses a SuperNode that was killed.
    assert waits == [1, 2, 4, 8, 16, 32, 64, 75, 75]
    starts, ends = world.times("started"), world.times("ended")
    for wait, end, start in zip(waits, ends, starts[1:], strict=True):
        assert wait is not None
        assert wait - 0.01 <= start - end <= wait + 0.3  # it looks five times a second


def test_two_minutes_of_health_and_the_wait_is_a_second_again() -> None:
    world = World({"a": [0.0, 0.0, 119.0, 121.0, 0.0]}, until_s=300.0)
    world.run()
    waits = [event.restart_s for _, event in world.events if event.what == "ended"]
    assert waits == [1, 2, 4, 1, 2]


def test_a_child_that_cannot_be_started_is_tried_again() -> None:
    world = World({"a": [-1.0, -1.0]}, until_s=20.0)
    world.run()
    assert [event.what for _, event in world.events] == ["failed", "failed", "started", "stopped"]
    assert "no such program" in world.events[0][1].text()


def test_one_childs_death_does_not_touch_the_other() -> None:
    world = World({"a": [1.0], "b": []}, until_s=10.0)
    world.run()
    assert [event.what for _, event in world.events if event.child == "b"] == ["started", "stopped"]


def test_children_end_in_the_reverse_order_each_in_its_own_time() -> None:
    world = World({"a": [], "b": []}, until_s=1.0)
    world.run()
    ended = [event.child for _, event in world.events if event.what == "stopped"]
    assert ended == ["b", "a"]
    assert world.signals[0] == ("b", signal.SIGTERM)
    assert world.times("stopped") == [1.0, 1.0]  # who obeys at once is not waited for


def test_a_child_that_does_not_stop_is_killed_after_its_grace() -> None:
    world = World({"a": []}, until_s=1.0, obeys=False)
    world.run()
    assert [event.what for _, event in world.events] == ["started", "killed"]
    assert 10.0 <= world.times("killed")[0] - 1.0 <= 10.3


def test_what_a_dead_child_leaves_behind_is_killed_before_it_comes_back() -> None:
    world = World({"a": [0.5]}, until_s=5.0)
    world.run()
    assert world.signals[0] == ("a", signal.SIGKILL)


def test_events_are_sentences() -> None:
    assert Event("a", "ended", code=-9, restart_s=4.0).text() == (
        "a ended unexpectedly (signal SIGKILL); it starts again in 4 s"
    )
    assert Event("a", "stopped", code=0).text() == "a stopped (exit code 0)"
    assert not Event("a", "ended", code=1).is_expected


def until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_real_processes_are_restarted_logged_and_ended_with_all_they_started(
    tmp_path: Path,
) -> None:
    # A shell that starts a child of its own and writes both numbers down.
    script = 'sleep 600 & echo "$$ $!"; wait'
    log = tmp_path / "child.log"
    child = Child("shell", ("/bin/sh", "-c", script), dict(os.environ), tmp_path, log)
    stop, events = threading.Event(), list[Event]()
    thread = threading.Thread(
        target=supervise, args=([child],), kwargs={"stop": stop, "on_event": events.append}
    )
    thread.start()
    try:
        until(lambda: log.is_file() and len(log.read_text().splitlines()) == 1)
        leader, grandchild = map(int, log.read_text().split())
        os.kill(leader, signal.SIGKILL)
        until(lambda: len(log.read_text().splitlines()) == 2)
        until(lambda: not alive(grandchild))
        second = [int(word) for word in log.read_text().splitlines()[1].split()]
    finally:
        stop.set()
        thread.join(timeout=20)
    assert [event.what for event in events] == ["started", "ended", "started", "stopped"]
    assert events[1].code == -signal.SIGKILL
    until(lambda: not any(alive(pid) for pid in second))
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_program_that_is_missing_is_told_not_raised(tmp_path: Path) -> None:
    stop, events = threading.Event(), list[Event]()

    def watch(event: Event) -> None:
        events.append(event)
        stop.set()

    child = Child("gone", (str(tmp_path / "gone"),), {}, tmp_path, tmp_path / "log")
    supervise([child], stop=stop, on_event=watch)
    assert events[0].what == "failed"
    assert "gone" in events[0].reason


_COUNTS = """
import itertools, time
for number in itertools.count():
    print(f"{number:09}", flush=True)
    time.sleep(0.0005)
"""


def test_a_log_never_grows_beyond_its_size_while_its_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2000
    monkeypatch.setattr("common.running.processes._LOG_BYTES", limit)
    log, beside = tmp_path / "c.log", tmp_path / "other.log"
    older = tmp_path / "c.log.1"
    beside.write_text("x" * (2 * limit))  # what nobody supervised writes
    (tmp_path / "book.sqlite").write_text("x" * (2 * limit))
    stop, events = threading.Event(), list[Event]()
    child = Child("c", (sys.executable, "-S", "-c", _COUNTS), {}, tmp_path, log)
    thread = threading.Thread(
        target=supervise, args=([child],), kwargs={"stop": stop, "on_event": events.append}
    )
    thread.start()
    try:
        until(older.is_file)
        first = older.stat().st_mtime_ns
        until(lambda: older.stat().st_mtime_ns > first)  # and again
    finally:
        stop.set()
        thread.join(timeout=20)
    assert [event.what for event in events] == ["started", "stopped"]
    assert older.stat().st_size == limit
    assert older.stat().st_mode & 0o777 == 0o600
    lines = log.read_text().splitlines()  # its writer appends: no gap of zeros before them
    assert all(len(line) == 9 and line.isdecimal() for line in lines)
    assert int(lines[0]) > int(older.read_text().splitlines()[-1])
    assert beside.read_text() == ""
    assert (tmp_path / "other.log.1").stat().st_size == limit
    assert (tmp_path / "book.sqlite").stat().st_size == 2 * limit


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_the_old_handler_comes_back(number: int) -> None:
    before = signal.getsignal(number)
    with until_signal() as stop:
        signal.raise_signal(number)
        assert stop.is_set()
    assert signal.getsignal(number) is before
