"""Two cohorts at one agent: whose patients are read, and whose budget is held to the limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import client.agent
from client.agent import Agent
from client.desk.administration import perform_locally
from client.policy import Policy, Reason
from client.policy.template import policy_text
from common.codec import encode
from common.learners import learner_for
from common.learners.types import Learner, Patients
from common.models import initial_params
from common.params import Params
from common.plan import Plan
from common.wire import Envelope
from tests.small_world import add_cohort, change_cohort, csv_text, made_site, small_plan

PLAN = small_plan()
OTHER = small_plan(name="other")


def ward() -> str:
    """Return patients of the main cohort's ids, of whom the first input, `number`, is 20 higher."""
    head, *lines = csv_text(seed=1).splitlines()
    rows = [line.split(",") for line in lines]
    moved = [",".join([name, str(int(number) + 20), *rest]) for name, number, *rest in rows]
    return "\n".join([head, *moved])


def allow(folder: Path, epsilon: float) -> None:
    policy = Policy(epsilon=epsilon, delta=0.02, noise_seed=7)
    (folder / "policy.toml").write_text(policy_text(policy))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    folder = made_site(tmp_path / "alpha")
    allow(folder, 20.0)
    agent = Agent(folder, durable=False)
    yield agent
    agent.close()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, set[int]]]:
    """Declared size and first inputs of the training patients of each round."""
    found: list[tuple[int, set[int]]] = []

    def adapt(model: Any, theta: Params, patients: Patients, source: Any) -> Params:
        numbers = {round(v * 1000) for v in patients.train.x[:, 0].tolist()}
        found.append((patients.declared, numbers))
        return {k: torch.zeros_like(v) for k, v in theta.items()}

    def watching(plan: Plan) -> Learner:
        return Learner("watching", learner_for(plan).init, adapt, learner_for(plan).apply)

    monkeypatch.setattr(client.agent, "learner_for", watching)
    return found


def approve(agent: Agent, plan: Plan, cohort: str) -> None:
    values = {"study": plan.study.rules(), "by": "a test", "cohort": cohort}
    perform_locally(agent, "approve", values)


def ask(agent: Agent, plan: Plan, kind: str = "train", number: int = 1) -> Envelope:
    payload = encode(initial_params(plan.study, seed=0))
    header = {"kind": kind, "digest": plan.digest, "run": "main", "round": number}
    return agent.handle(Envelope(header, payload))


def both_approved(agent: Agent, *, disjoint: bool) -> None:
    """Approve a study for each cohort, added while the agent runs."""
    add_cohort(agent.folder, "ward", text=ward(), declared=30, disjoint=disjoint)
    approve(agent, PLAN, "main")
    approve(agent, OTHER, "ward")


def reason(answer: Envelope) -> object:
    return answer.header.get("reason")


@pytest.mark.parametrize("disjoint", [False, True])
def test_two_studies_on_two_cohorts_share_a_budget_unless_no_patient_is_in_both(
    agent: Agent, disjoint: bool
) -> None:
    # Break it once: hand the gate every account, or those of the study's own cohort alone.
    both_approved(agent, disjoint=disjoint)
    allow(agent.folder, 1.5 * PLAN.epsilon)
    assert ask(agent, PLAN).header["status"] == "ok"
    answer = ask(agent, OTHER)
    if disjoint:
        assert answer.header["status"] == "ok"
    else:
        assert reason(answer) == Reason.BUDGET.value
        assert len(agent.ledger.entries("reserve")) == 1
    assert ask(agent, PLAN, number=2).header["status"] == "ok"


def test_each_study_reads_its_own_cohort_and_tells_its_own_size(
    agent: Agent, seen: list[tuple[int, set[int]]]
) -> None:
    both_approved(agent, disjoint=False)
    for plan in (PLAN, OTHER):
        assert ask(agent, plan).header["status"] == "ok"
    (main, own), (other, others) = seen
    assert (main, other) == (40, 30)
    assert ask(agent, OTHER, "join", 0).header["declared"] == 30
    assert own <= set(range(40))
    # The same key parts both: an id is on the same side in each.
    assert others == {number + 20 for number in own}


def test_a_patient_withdraws_from_every_cohort(
    agent: Agent, seen: list[tuple[int, set[int]]]
) -> None:
    both_approved(agent, disjoint=True)
    for plan in (PLAN, OTHER):
        ask(agent, plan)
    gone = min(seen[0][1])
    found = perform_locally(agent, "withdraw", {"patient": f"p{gone}"})
    assert {use["study"] for use in found["runs"]} == {"small", "other"}
    for plan in (PLAN, OTHER):
        ask(agent, plan, number=2)
    assert seen[2][1] == seen[0][1] - {gone}
    assert seen[3][1] == seen[1][1] - {gone + 20}


@pytest.mark.parametrize("change", [{"disjoint": True}, {"path": "moved"}])
def test_terms_that_changed_since_approval_stop_the_study_until_it_is_approved_again(
    agent: Agent, change: dict[str, Any]
) -> None:
    # Break it once: charge it under what cohort.toml says now.
    both_approved(agent, disjoint=False)
    data = agent.folder.parent / "alpha-ward.csv"
    if "path" in change:
        change = {"path": str(data.with_name("moved.csv"))}
        data.rename(change["path"])
    change_cohort(agent.folder, "ward", **change)
    assert reason(ask(agent, OTHER)) == Reason.PAUSED.value  # it depends on nothing but the site
    assert agent.ledger.entries("refusal")[-1].body["reason"] == "COHORT_CHANGED"
    assert agent.ledger.entries("reserve") == []
    assert ask(agent, PLAN).header["status"] == "ok"  # the other study's terms are as they were
    approve(agent, OTHER, "ward")
    assert ask(agent, OTHER).header["status"] == "ok"


def test_marking_a_charged_cohort_disjoint_buys_no_round(agent: Agent) -> None:
    both_approved(agent, disjoint=False)
    assert ask(agent, PLAN).header["status"] == "ok"
    assert ask(agent, OTHER).header["status"] == "ok"
    change_cohort(agent.folder, "ward", disjoint=True)
    approve(agent, OTHER, "ward")
    allow(agent.folder, 1.5 * PLAN.epsilon)
    for plan in (PLAN, OTHER):
        assert reason(ask(agent, plan, number=2)) == Reason.BUDGET.value


def test_a_cohort_gone_from_the_file_stops_its_own_studies_alone(agent: Agent) -> None:
    both_approved(agent, disjoint=False)
    change_cohort(agent.folder, "ward")
    assert reason(ask(agent, OTHER)) == Reason.FAILED.value
    assert "cohort 'ward' is not in" in (agent.folder / "site.log").read_text()
    assert ask(agent, PLAN).header["status"] == "ok"


def test_a_configuration_with_a_mistake_stops_everything_and_is_read_again(agent: Agent) -> None:
    both_approved(agent, disjoint=False)
    change_cohort(agent.folder, "ward", declared=0)
    assert reason(ask(agent, PLAN)) == Reason.FAILED.value
    assert "cohorts.ward.declared is 0" in (agent.folder / "site.log").read_text()
    change_cohort(agent.folder, "ward", declared=30)
    assert ask(agent, PLAN).header["status"] == "ok"
