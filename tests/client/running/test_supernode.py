"""The SuperNode's pace: brisk while there is work, and in the place where Flower waits."""

from __future__ import annotations

import inspect

from client.running.supernode import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def test_it_waits_little_while_there_is_work_and_more_when_idle() -> None:
    clock = Clock()
    pace = Pace(clock=lambda: clock.now, wait=clock.wait)
    pace.sleep(3)  # nothing to do since it started
    pace.sleep(0.5)  # the relay works
    pace.sleep(3)
    clock.now += 120.0
    pace.sleep(3)
    assert clock.waits == [1.0, 0.1, 0.2, 1.0]


def test_flower_waits_where_we_expect_it() -> None:
    from flwr.supernode import start_client_internal as loop

    source = inspect.getsource(loop)
    waits = [line.strip() for line in source.splitlines() if "time." in line and "sleep" in line]
    assert waits == ["time.sleep(3)", "time.sleep(0.5)", "time.sleep(0.5)"]
