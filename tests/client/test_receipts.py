"""A count above the ledger's own is believed by the tag of this site's own receipt, and only so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.agent import Agent
from client.desk.administration import perform_locally
from client.desk.approval import approve
from client.ledger import Ledger
from client.policy import Reason
from client.site import load_site
from common.codec import encode
from common.models import initial_params
from common.plan import Plan
from common.wire import Envelope
from tests.small_world import hospital, made_site, small_plan

PLAN = small_plan(rounds={"count": 9})
OTHER = small_plan(name="other", rounds={"count": 9})

Start = Callable[[], Agent]


@pytest.fixture(scope="module")
def approved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_site(tmp_path_factory.mktemp("approved") / "alpha", epsilon=50.0)
    approve_both(folder)
    return folder


@pytest.fixture
def folder(approved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(approved, tmp_path / "alpha")


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Return a function that starts the site's agent, and close whatever it started."""
    agents: list[Agent] = []

    def start() -> Agent:
        agents.append(Agent(folder))
        return agents[-1]

    yield start
    for agent in agents:
        agent.close()


def approve_both(folder: Path) -> None:
    policy = folder / "policy.toml"
    policy.write_text(policy.read_text().replace("\nruns = 1\n", "\nruns = 2\n"))
    ledger = Ledger(load_site(folder).ledger_path)
    for plan in (PLAN, OTHER):
        approve(load_site(folder), ledger, plan, runs=2)
    ledger.close()


def ask(
    agent: Agent, number: int, *, plan: Plan = PLAN, run: str = "main", **receipt: Any
) -> Envelope:
    header = {"kind": "train", "digest": plan.digest, "run": run, "round": number}
    payload = encode(initial_params(plan.study, seed=0))
    return agent.handle(Envelope({**header, **receipt}, payload))


def receipt(answer: Envelope) -> dict[str, Any]:
    """What a coordinator shows of an answer in its next request."""
    return {"seen": answer.header["reserves"], "tag": answer.header["tag"]}


def reason(answer: Envelope) -> str | None:
    return answer.header.get("reason")


def begin(start: Start, *rounds: int) -> list[dict[str, Any]]:
    """Have some rounds computed; return the receipts, and leave no agent."""
    agent = start()
    found = [receipt(ask(agent, number)) for number in rounds]
    agent.close()
    return found


def forget(folder: Path) -> None:
    for path in folder.glob("ledger.*"):
        path.unlink()


def assert_must_be_reconciled(agent: Agent, shown: dict[str, Any]) -> None:
    """The receipt stops the site; once it has paid, the same receipt stops it no more."""
    assert reason(ask(agent, 8, **shown)) == Reason.LEDGER_BEHIND
    assert f"has seen {shown['seen']} releases" in (agent.ledger.behind or "")
    assert reason(ask(agent, 8)) == Reason.LEDGER_BEHIND
    perform_locally(agent, "reconcile", {})
    assert ask(agent, 8, **shown).header["status"] == "ok"


def test_an_honest_coordinator_shows_every_receipt_and_is_answered(start: Start) -> None:
    # Break it once: make the tag over the round, or the run.
    agent, shown = start(), {}
    for number in range(1, 5):
        answer = ask(agent, number, **shown)
        assert answer.header["reserves"] == number
        shown = receipt(answer)
    assert ask(agent, 4, **shown) == answer
    assert agent.ledger.entries("refusal") == []


def test_a_folder_put_back_as_it_was_is_noticed_by_its_own_receipt(
    folder: Path, start: Start, tmp_path: Path
) -> None:
    """Ledger and head went back together, so the site alone cannot tell."""
    begin(start, 1, 2)
    shutil.copytree(folder, tmp_path / "kept")
    (*_, last) = begin(start, 3, 4, 5)
    forget(folder)
    for path in (tmp_path / "kept").glob("ledger.*"):
        shutil.copy(path, folder)
    agent = start()
    assert agent.ledger.behind is None
    assert_must_be_reconciled(agent, last)


def test_a_ledger_begun_anew_under_the_sites_keys_is_noticed(folder: Path, start: Start) -> None:
    # Break it once: take the tag's key from the ledger.
    (*_, last) = begin(start, 1, 2, 3)
    forget(folder)
    approve_both(folder)
    assert_must_be_reconciled(start(), last)


def test_an_old_receipt_and_a_request_without_one_change_nothing(start: Start) -> None:
    first, *_ = begin(start, 1, 2, 3)
    agent = start()
    for number, shown in enumerate([first, {}, {"seen": 0}, {"seen": 3}], start=4):
        assert ask(agent, number, **shown).header["reserves"] == number
    assert agent.ledger.behind is None


LIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "more, without a tag": lambda r: {"seen": r["seen"] + 1},
    "more, under another count's tag": lambda r: {**r, "seen": r["seen"] + 1},
    "less, under another count's tag": lambda r: {**r, "seen": r["seen"] - 1},
    "an edited tag": lambda r: {**r, "tag": r["tag"][:-1] + ("0" if r["tag"][-1] != "0" else "1")},
    "no tag's length": lambda r: {**r, "tag": ""},
    "no text of a tag": lambda r: {**r, "tag": "\ud800é"},
    "a tag and no count": lambda r: {"tag": r["tag"]},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_false_receipt_is_refused_and_noted_and_costs_nothing(
    start: Start, lie: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    # Break it once: believe the number.
    (*_, last) = begin(start, 1, 2)
    agent = start()
    before = agent.ledger.accounts()
    assert reason(ask(agent, 3, **lie(last))) == Reason.FALSE_RECEIPT
    [entry] = agent.ledger.entries("refusal")
    assert entry.body["reason"] == "FALSE_RECEIPT"
    assert agent.ledger.accounts() == before
    assert agent.ledger.behind is None
    assert ask(agent, 3, **last).header["reserves"] == 3


def test_a_receipt_of_another_study_is_false(start: Start) -> None:
    agent = start()
    shown = [receipt(ask(agent, number, plan=OTHER)) for number in (1, 2)]
    assert reason(ask(agent, 1, **shown[1])) == Reason.FALSE_RECEIPT
    assert ask(agent, 1, plan=PLAN).header["reserves"] == 1


def test_a_receipt_of_another_site_is_false(start: Start, tmp_path: Path) -> None:
    """Were the secrets alike too: the name is in the tag."""
    (*_, last) = begin(start, 1, 2, 3)
    other = made_site(tmp_path / "beta", epsilon=50.0)
    secret = (tmp_path / "alpha" / "keys" / "secret").read_bytes()
    (other / "keys" / "secret").write_bytes(secret)
    (other / "ledger.head").unlink()  # it was signed with another
    (other / "ledger.sqlite").unlink()
    approve_both(other)
    agent = Agent(other)
    assert reason(ask(agent, 1, **last)) == Reason.FALSE_RECEIPT
    agent.close()


def test_a_receipt_of_another_run_of_the_study_is_true(start: Start) -> None:
    """The count is of the study's runs together, and so is what a ledger may have lost."""
    (*_, last) = begin(start, 1, 2)
    assert ask(start(), 3, run="later", **last).header["status"] == "ok"


def test_the_nodes_key_makes_no_tag(folder: Path, start: Start) -> None:
    """The relay has a copy of that key, and the coordinator's code may run there."""
    first, *_ = begin(start, 1)
    begun = folder / "keys" / "node.key"
    begun.write_bytes(b"another")
    agent = start()
    assert receipt(ask(agent, 1)) == first


def test_a_simulated_site_gives_no_tag_and_believes_no_count(tmp_path: Path) -> None:
    """It has no secret; that of a real site changes nothing but the tag."""
    hospital(tmp_path / "alpha", PLAN)
    agent = Agent(tmp_path / "alpha", durable=False)
    answer = ask(agent, 1)
    assert "tag" not in answer.header
    assert ask(agent, 2, seen=1).header["reserves"] == 2
    for shown in ({"seen": 3}, {"seen": 2, "tag": "0" * 64}, {"seen": 2, "tag": ""}):
        assert reason(ask(agent, 3, **shown)) == Reason.FALSE_RECEIPT
    agent.close()
