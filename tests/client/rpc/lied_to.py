"""A real agent behind its real doors, for a coordinator that lies to it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client.agent import Agent
from client.desk.approval import approve
from client.ledger import Ledger
from client.policy import Reason
from client.rpc import admin
from client.rpc.checks import checks_of
from client.rpc.relay import ask_agent
from client.site import load_site
from common.codec import encode
from common.models import initial_params
from common.params import Params
from common.plan import Plan
from common.wire import Envelope
from tests.client.rpc.running import running, short_folder
from tests.ledger_reader import releases
from tests.small_world import made_site, small_plan

ROUNDS = 40
PLAN = small_plan(rounds={"count": ROUNDS})


@contextmanager
def approved_site() -> Iterator[Path]:
    """The folder of a site as its people made it, with the study approved."""
    with short_folder() as parent:
        folder = made_site(parent / "alpha", epsilon=50.0)
        ledger = Ledger(load_site(folder).ledger_path)
        approve(load_site(folder), ledger, PLAN)
        ledger.close()
        yield folder


@dataclass
class Hospital:
    """A real agent behind its real doors, and the study that it approved."""

    agent: Agent
    relay: str
    plan: Plan
    caplog: pytest.LogCaptureFixture
    rounds: int = 0

    @property
    def folder(self) -> Path:
        return self.agent.folder

    def ask(self, **lies: Any) -> Envelope:
        """Send a request for round 1 with some of it changed, and return the answer."""
        payload = lies.pop("payload", weights(self.plan))
        honest = {"kind": "train", "digest": self.plan.digest, "run": "main", "round": 1}
        return ask_agent(self.relay, Envelope({**honest, **lies}, payload))

    def work(self) -> Envelope:
        """Have a round computed that was not asked for before."""
        self.rounds += 1
        answer = self.ask(round=self.rounds)
        assert answer.header["status"] == "ok"
        assert answer.header["reserves"] == self.rounds
        assert answer.header["epsilon"] == self.plan.epsilon_after(self.rounds)
        return answer

    def assert_unharmed(self) -> None:
        """Nothing spent that was not computed; well; and at work."""
        priced = [line for line in releases(self.folder / "ledger.sqlite") if line.events]
        assert [line.state for line in priced] == ["committed"] * self.rounds
        assert self.agent.ledger.verify().ok
        assert self.agent.ledger.behind is None
        assert admin.health(self.folder)["agent"] == "SERVING"
        self.work()

    def refusals(self) -> list[str]:
        """What the ledger says was refused."""
        return [e.body["reason"] for e in self.agent.ledger.entries("refusal")]

    def assert_refused(self, answer: Envelope, reason: Reason) -> None:
        """Refused with nothing but the reason, noted in the ledger, and nothing else happened."""
        told = {"status": "refused", "reason": str(reason), "site": "alpha"}
        assert (answer.header, answer.payload) == (told, b"")
        assert self.refusals()[-1] == reason.name
        assert f"refused: {reason}" in (self.folder / "site.log").read_text()
        self.assert_unharmed()


@contextmanager
def lied_to(approved: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Hospital]:
    """A hospital of its own, from a copy of an approved site's folder."""
    with short_folder() as parent:
        folder = shutil.copytree(approved, parent / "alpha")
        agent = Agent(folder)
        checks = checks_of(folder, agent.ledger)
        with (
            caplog.at_level(logging.INFO, logger="client.rpc"),
            running(agent.handle, folder, checks=checks, site="alpha") as servers,
        ):
            yield Hospital(agent, servers.relay, PLAN, caplog)
        agent.close()


def theta(plan: Plan) -> Params:
    return initial_params(plan.study, seed=0)


def weights(plan: Plan) -> bytes:
    return encode(theta(plan))
