"""The agent as a process: by its command line, stopped by a signal, killed, started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client.ledger import Ledger
from client.rpc import admin
from client.rpc.relay import ask_agent
from common.codec import encode
from common.models import build, params_of
from common.plan import Plan
from common.wire import Envelope
from tests.client.rpc.running import short_folder, until
from tests.small_world import hospital, roomy, small_plan

ROOT = Path(__file__).parents[3]
_LONG_S = 120.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "client.rpc.service", *arguments]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{empty}"], 2, "has no cohort.toml"),
        (["{empty}/none"], 2, "has no cohort.toml"),
        (["{site}", "--relay-user", "no-such-user"], 2, "useradd"),
        (["{site}", "--tcp", "99999"], 2, "99999 is not a port"),
        (["{site}", "--tcp", "many"], 2, "invalid"),
        (["{site}", "--max-message", "0"], 2, "not a size"),
    ],
    ids=["no site", "no folder", "user", "port", "no number", "size"],
)
def test_a_mistake_is_one_message_and_an_exit_code(
    tmp_path: Path, arguments: Sequence[str], code: int, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "cohort.toml").touch()
    given = [a.format(empty=tmp_path / "empty", site=tmp_path / "site") for a in arguments]
    done = subprocess.run(
        command(*given), cwd=ROOT, capture_output=True, text=True, check=False, timeout=_LONG_S
    )
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "empty").iterdir()) == []


def test_its_help_shows_an_example() -> None:
    done = subprocess.run(
        command("--help"), cwd=ROOT, capture_output=True, text=True, check=True, timeout=_LONG_S
    )
    assert "Example:" in done.stdout


class Process:
    """An agent's process for a folder, and what it logged."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.log = folder, folder / "agent.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command(str(folder), "--log-format", "json", *options),
                cwd=ROOT,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.start = time.monotonic()

    def ready(self) -> float:
        """Wait until it is healthy; return the seconds that it took since it was started."""
        end = self.start + _LONG_S
        while not (admin.is_running(self.folder) and self.health() == "SERVING"):
            assert time.monotonic() < end, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        return time.monotonic() - self.start

    def health(self) -> str:
        return admin.health(self.folder)["agent"]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(_LONG_S)


@contextmanager
def process(folder: Path, *options: str) -> Iterator[Process]:
    agent = Process(folder, *options)
    try:
        yield agent
    finally:
        if agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def requests(plan: Plan) -> dict[int, Envelope]:
    """The requests of two rounds; each is the same whenever it is asked."""
    weights = encode(params_of(build(plan.study)))
    asked = {"kind": "train", "digest": plan.digest, "run": "r1"}
    return {number: Envelope({**asked, "round": number}, weights) for number in (1, 2)}


def reserves(site: Path) -> int:
    ledger = Ledger(site / "ledger.sqlite")
    try:
        return sum(account.reserves for account in ledger.accounts())
    finally:
        ledger.close()


@pytest.mark.slow
def test_an_agent_lives_through_rounds_a_stop_and_a_kill(folder: Path) -> None:
    """One process after another on one folder, as a supervisor starts them."""
    # Steps enough for a signal to find the round being computed; nothing to account for, as that
    # would take longer.
    plan = small_plan(learner={"local_steps": 1000, "learning_rate": 0.01}, privacy=None)
    hospital(folder / "site", plan, policy=roomy(plan, allow_unprotected=True))
    site = folder / "site"
    relay = f"unix:{site}/relay/agent.sock"
    rounds, answers = requests(plan), []

    def ask(number: int) -> threading.Thread:
        def go() -> None:
            answers.append(ask_agent(relay, rounds[number]))

        thread = threading.Thread(target=go)
        thread.start()
        return thread

    def asked(agent: Process, number: int) -> bool:
        return any(
            line["message"].startswith("asked: train") and line["round"] == number
            for line in agent.lines()
        )

    with process(site) as agent:
        assert agent.ready() < 15
        assert json.loads((site / "run" / "agent.pid").read_text()) == agent.process.pid
        second = subprocess.run(
            command(str(site)), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert second.returncode == 2
        assert "an agent already runs for" in second.stderr
        assert admin.call(site, "status")["site"] == "site"
        asking = ask(1)
        until(lambda: asked(agent, 1), timeout_s=_LONG_S)
        assert agent.end(signal.SIGTERM) == 0
        asking.join(_LONG_S)
        assert not (site / "relay" / "agent.sock").exists()
    first = answers[-1]
    assert first.header["status"] == "ok"
    assert first.header["reserves"] == 1

    with process(site) as agent:
        agent.ready()
        # What was answered before the stop is given from the ledger, and costs nothing.
        assert ask_agent(relay, rounds[1]).payload == first.payload
        asking = ask(2)
        until(lambda: reserves(site) == 2, timeout_s=_LONG_S)
        agent.end(signal.SIGKILL)
        assert (site / "relay" / "agent.sock").exists()

    with process(site) as agent:
        agent.ready()
        asking.join(_LONG_S)  # the relay waited, and asked again
        assert answers[-1].header["status"] == "ok"
        # Round 1, round 2 before the kill, round 2 again: a spend is never taken back.
        assert answers[-1].header["reserves"] == 3
        line = next(line for line in agent.lines() if line["message"].startswith("asked"))
        assert (line["site"], line["run"], line["round"]) == ("site", "r1", 1)
        assert agent.end(signal.SIGTERM) == 0
