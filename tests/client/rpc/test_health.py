"""How the agent says that it is well: asked once, or watched; and the administrator's commands."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.rpc import admin
from common.errors import SiteError, StudyError
from common.wire import Envelope
from tests.client.rpc.running import LONG_S, running, short_folder, until


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def answer(request: Envelope) -> Envelope:
    return Envelope({"status": "ok"})


class Parts:
    """What the checks find, to be changed by a test."""

    def __init__(self) -> None:
        self.now: dict[str, bool | None] = {
            "data": True,
            "device": True,
            "budget": True,
            "superlink": None,
        }

    @property
    def checks(self) -> Any:
        return {name: lambda name=name: self.now[name] for name in self.now}


def test_check_tells_each_part_and_the_whole(folder: Path) -> None:
    with running(answer, folder, checks=Parts().checks):
        assert admin.health(folder) == {
            "agent": "SERVING",
            "data": "SERVING",
            "device": "SERVING",
            "budget": "SERVING",
            "superlink": "SERVICE_UNKNOWN",
        }


@pytest.mark.parametrize(
    ("part", "whole"),
    [
        ("data", "NOT_SERVING"),
        ("device", "NOT_SERVING"),
        ("budget", "NOT_SERVING"),
        ("superlink", "SERVING"),
    ],
)
def test_a_part_that_is_not_well_is_told_when_it_is_next_looked_at(
    folder: Path, part: str, whole: str
) -> None:
    parts = Parts()
    with running(answer, folder, checks=parts.checks, health_s=0.01):
        parts.now[part] = False
        until(lambda: admin.health(folder)[part] == "NOT_SERVING")
        assert admin.health(folder)["agent"] == whole
        parts.now[part] = True
        until(lambda: admin.health(folder)[part] == "SERVING")
        assert admin.health(folder)["agent"] == "SERVING"


def test_a_check_that_fails_says_that_its_part_is_not_well(folder: Path) -> None:
    def broken() -> bool:
        raise OSError("no disk")

    with running(answer, folder, checks={"data": broken}):
        assert admin.health(folder)["data"] == "NOT_SERVING"


def test_watch_tells_each_change_once_and_the_end(folder: Path) -> None:
    parts = Parts()
    seen: list[str] = []
    ended: list[SiteError] = []

    def look() -> None:
        try:
            seen.extend([])
            for state in admin.watch(folder, "budget"):
                seen.append(state)
        except SiteError as error:
            ended.append(error)

    with running(answer, folder, checks=parts.checks, health_s=0.01) as servers:
        watching = threading.Thread(target=look)
        watching.start()
        until(lambda: seen == ["SERVING"])
        parts.now["budget"] = False
        until(lambda: seen == ["SERVING", "NOT_SERVING"])
        parts.now["budget"] = True
        until(lambda: seen == ["SERVING", "NOT_SERVING", "SERVING"])
        servers.stop(0.0)
        watching.join(LONG_S)
    assert seen == ["SERVING", "NOT_SERVING", "SERVING", "NOT_SERVING"]
    assert len(ended) == 1


def test_a_command_reaches_the_agent_and_health_is_looked_at_afterwards(folder: Path) -> None:
    parts, done = Parts(), []

    def perform(name: str, values: Any) -> dict[str, Any]:
        done.append((name, values))
        parts.now["budget"] = False
        return {"paused": True}

    with running(answer, folder, perform=perform, checks=parts.checks, health_s=999.0):
        assert admin.call(folder, "pause", why="new scanner", runs=2) == {"paused": True}
        until(lambda: admin.health(folder)["budget"] == "NOT_SERVING")
    assert done == [("pause", {"why": "new scanner", "runs": 2})]


def test_a_command_that_fails_names_the_cause_and_the_remedy(folder: Path) -> None:
    def perform(name: str, values: Any) -> dict[str, Any]:
        if name == "approve":
            raise StudyError("rounds.count is 0", remedy="use at least 1")
        raise KeyError(name)

    with running(answer, folder, perform=perform):
        with pytest.raises(SiteError, match=r"rounds\.count is 0") as caught:
            admin.call(folder, "approve")
        assert caught.value.remedy == "use at least 1"
        with pytest.raises(SiteError, match="could not do 'other'") as caught:
            admin.call(folder, "other")
        assert "log" in caught.value.remedy
        assert admin.is_running(folder)


def test_without_an_agent_a_command_says_how_to_start_one(folder: Path) -> None:
    assert not admin.is_running(folder)
    with pytest.raises(SiteError, match="no agent runs for") as caught:
        admin.call(folder, "status")
    assert "site start" in caught.value.remedy
    with pytest.raises(SiteError, match="no agent runs for"):
        admin.health(folder)
    with pytest.raises(SiteError, match="no agent runs for"):
        next(admin.watch(folder))
