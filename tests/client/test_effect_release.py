"""The table of an effect leaves by the one door: priced, once, where the policy lets it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import Agent
from client.desk.approval import approve
from client.ledger import Ledger
from client.policy import Policy, Reason
from client.policy.rules import rules
from client.site import load_site
from common.codec import decode, encode
from common.plan import Plan
from common.privacy.noise import SeededSource
from common.seeds import derive
from common.wire import Envelope
from tests.effect_world import TRIAL, centre_csv, effect_plan
from tests.ledger_reader import releases
from tests.small_world import hospital, made_site, roomy

PLAN = effect_plan()


@pytest.fixture
def agent_of(tmp_path: Path):
    agents: list[Agent] = []

    def start(plan: Plan = PLAN, **policy: Any) -> Agent:
        text, allowed = centre_csv("michigan"), roomy(plan, **policy)
        hospital(tmp_path / "michigan", plan, policy=allowed, text=text, declared=160)
        agents.append(Agent(tmp_path / "michigan", durable=False))
        return agents[-1]

    yield start
    for agent in agents:
        agent.close()


def ask(agent: Agent, plan: Plan = PLAN, *, kind="evaluate", number=0, payload=None, run="main"):
    header = {"kind": kind, "digest": plan.digest, "run": run, "round": number}
    return agent.handle(Envelope(header, encode({}) if payload is None else payload))


def charged(folder: Path) -> list[tuple[str, int]]:
    rows = releases(folder / "michigan" / "ledger.sqlite")
    return [(r.phase, len(r.events)) for r in rows if r.phase != "join"]


def test_the_release_is_the_whole_cohorts_table_with_the_plans_noise(agent_of, tmp_path):
    answer = ask(agent_of())
    counts = decode(answer.payload)["counts"].numpy()
    noise = SeededSource(derive(7, "michigan", "evaluate", 0)).normal(4).reshape(1, 2, 2)
    assert np.allclose(counts[0], TRIAL["michigan"] + PLAN.release_sigma * noise[0], atol=1e-4)
    assert answer.header["epsilon"] == PLAN.epsilon
    assert charged(tmp_path) == [("evaluate", 1)]


def test_asked_twice_it_gives_the_same_bytes_and_pays_once(agent_of, tmp_path):
    agent = agent_of()
    assert ask(agent).payload == ask(agent).payload
    assert charged(tmp_path) == [("evaluate", 1)]


@pytest.mark.parametrize(
    ("kind", "number"), [("train", 0), ("train", 1), ("deliver", 0), ("evaluate", 1)]
)
def test_no_other_phase_or_round_is_answered(agent_of, kind, number, tmp_path):
    answer = ask(agent_of(), kind=kind, number=number)
    assert answer.header["reason"] == Reason.OUT_OF_PLAN
    assert charged(tmp_path) == []


def test_weights_that_come_with_the_request_are_refused(agent_of, tmp_path):
    import torch

    answer = ask(agent_of(), payload=encode({"w": torch.zeros(3)}))
    assert answer.header["reason"] == Reason.MALFORMED
    assert charged(tmp_path) == []


def test_a_policy_without_effects_refuses_before_anything_is_charged(agent_of, tmp_path):
    answer = ask(agent_of(releases=["train", "evaluate"]))
    assert answer.header["reason"] == Reason.RELEASE_NOT_ALLOWED
    assert charged(tmp_path) == []


def test_a_second_run_is_paid_for_again_or_refused(agent_of, tmp_path):
    agent = agent_of(epsilon=1.5 * PLAN.epsilon, runs=2)
    assert ask(agent).header["status"] == "ok"
    assert ask(agent, run="again").header["reason"] in (Reason.BUDGET, Reason.STUDY_BUDGET)
    assert charged(tmp_path) == [("evaluate", 1)]


def objections(plan: Plan, **changes: Any) -> set[Reason]:
    policy = Policy(**{"epsilon": 10.0, "delta": 1e-3, **changes})
    found = rules(policy, plan, declared=160, run="main", accounts=[], phase="approve")
    return {rule.reason for rule in found if rule.reason is not None}


def test_a_site_judges_an_effect_by_noise_price_and_kind_and_not_by_a_learner():
    assert objections(PLAN) == set()
    assert objections(PLAN, learners=["reptile"], models=["mlp"]) == set()
    assert objections(PLAN, releases=["train", "evaluate"]) == {Reason.RELEASE_NOT_ALLOWED}
    assert objections(PLAN, min_sigma=1.2) == {Reason.SIGMA_TOO_SMALL}
    assert objections(PLAN, min_sigma=1.1) == set()
    assert Reason.STUDY_BUDGET in objections(PLAN, study_epsilon=2.0)
    assert objections(effect_plan(privacy=None)) >= {Reason.NOT_PRIVATE}


def test_a_real_site_approves_an_effect_and_its_record_says_what_leaves(tmp_path: Path) -> None:
    folder = made_site(tmp_path / "michigan", text=centre_csv("michigan"), declared=160)
    site = load_site(folder)
    with closing(Ledger(site.ledger_path, durable=False)) as ledger:
        found = approve(site, ledger, PLAN, by="a tester")
    assert found["patients"] == 164  # all of them: nobody is held out
    assert found["epsilon"] == PLAN.epsilon
    record = Path(found["record"]).read_text()
    assert "trains nothing" in record
    assert "four counts" in record
