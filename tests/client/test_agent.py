"""The agent: what it answers the coordinator, what it keeps to itself, what it never raises."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict

import client.agent
from client.agent import Agent, agent_of, folder_transport
from client.desk.administration import perform_locally
from client.desk.approval import approve
from client.ledger import Ledger
from client.policy import Policy, Reason
from client.site import load_site
from common.codec import decode, encode
from common.cohort.read import read_cohort
from common.errors import SiteError
from common.evaluation import score_histogram
from common.learners import learner_for
from common.learners.types import Learner, Patients
from common.models import build, initial_params, load_params, params_of, predict
from common.params import Params
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.seeds import derive
from common.wire import Envelope, pack
from tests.small_world import csv_text, hospital, made_site, roomy, small_plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan()


@pytest.fixture
def open_agents() -> Iterator[list[Agent]]:
    agents: list[Agent] = []
    yield agents
    for agent in agents:
        agent.close()


@pytest.fixture
def start(tmp_path: Path, plan: Plan, open_agents: list[Agent]) -> Any:
    """Return a function that writes the hospital 'alpha' and starts its agent."""

    def start(*plans: Plan, **options: Any) -> Agent:
        hospital(tmp_path / "alpha", *(plans or (plan,)), **options)
        open_agents.append(Agent(tmp_path / "alpha", durable=False))
        return open_agents[-1]

    return start


def theta(plan: Plan) -> Params:
    weights = initial_params(plan.study, seed=0)
    return {k: v + 0.5 for k, v in weights.items()}


def request(plan: Plan, kind: str = "train", number: int = 1, **changes: Any) -> Envelope:
    payload = changes.pop("payload", encode(theta(plan)))
    header = {"kind": kind, "digest": plan.digest, "run": "main", "round": number, **changes}
    return Envelope({k: v for k, v in header.items() if v is not None}, payload)


def entries(folder: Path) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return phase, state and price of every reserve."""
    ledger = Ledger(folder / "alpha" / "ledger.sqlite", durable=False)
    reserves, commits = ledger.entries("reserve"), ledger.entries("commit")
    ledger.close()
    done = {e.body["reserve"] for e in commits}
    states = {True: "committed", False: "reserved"}
    return [(e.body["phase"], states[e.seq in done], e.body["events"]) for e in reserves]


def assert_refused(answer: Envelope, reason: Reason) -> None:
    """Nothing but the reason and the site's own name is in a refusal."""
    assert answer == Envelope({"status": "refused", "reason": reason.value, "site": "alpha"})


def log_of(folder: Path) -> str:
    path = folder / "alpha" / "site.log"
    return path.read_text() if path.exists() else ""


# What a round gives


def test_training_answers_the_learners_delta_from_the_sites_training_patients(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    # The same pure function, called with the same patients and the same stream of noise.
    agent = start()
    cohort = read_cohort(load_site(tmp_path / "alpha").source, plan.study.cohort)
    source = SeededSource(derive(7, "alpha", "train", 1))
    expected = learner_for(plan).adapt(
        PrivateModel(build(plan.study)), theta(plan), Patients(cohort.train, 40), source
    )
    answer = agent.handle(request(plan))
    assert answer.payload == encode(expected)
    assert answer.header["epsilon"] == plan.epsilon_after(1)


def test_evaluation_answers_the_shared_models_histogram_with_the_plans_noise(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    # Break it once: leave out the noise, or score the training part.
    agent = start()
    cohort = read_cohort(load_site(tmp_path / "alpha").source, plan.study.cohort)
    model = build(plan.study)
    load_params(model, theta(plan))
    part = cohort.holdout
    exact = score_histogram(
        predict(model, part.x).numpy(), part.y.numpy(), part.patient.numpy(), bins=4
    )
    noise = plan.evaluation_sigma * SeededSource(derive(7, "alpha", "evaluate", 3)).normal(8)
    agent.handle(request(plan, "train", 3))  # adaptation leaves no trace in the shared model
    counts = decode(agent.handle(request(plan, "evaluate", 3)).payload)["counts"]
    assert torch.equal(counts, counts.float().double())  # no last bits that betray the counts
    assert counts.shape == (1, 2, 4)
    torch.testing.assert_close(
        counts, torch.from_numpy(exact + noise.reshape(1, 2, 4)), rtol=1e-7, atol=1e-12
    )


def test_joining_says_a_name_and_the_declared_size_and_reads_no_patient(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    agent = start()
    (tmp_path / "alpha" / "patients.csv").unlink()
    answer = agent.handle(request(plan, "join", 0, payload=b""))
    names = {"digest": plan.digest, "run": "main", "round": 0, "site": "alpha"}
    receipt = {"epsilon": 0.0, "reserves": 0}
    public = {"declared": 40, "noise": "seeded"}
    assert answer.header == {"status": "ok", **names, **public, **receipt}
    assert decode(answer.payload) == {}


def test_everything_but_joining_has_a_price(start: Any, plan: Plan, tmp_path: Path) -> None:
    agent = start()
    for asked in (request(plan, "join", 0), request(plan), request(plan, "evaluate", 3)):
        assert agent.handle(asked).header["status"] == "ok"
    prices = {phase: events for phase, _, events in entries(tmp_path)}
    assert prices["join"] == []
    [train], [evaluate] = prices["train"], prices["evaluate"]
    # Two local steps at the study's sigma; one histogram at the compiled one.
    assert (train["sigma"], train["count"], train["part"]) == (4.0, 2, "train")
    assert (evaluate["sigma"], evaluate["count"]) == (plan.evaluation_sigma, 1)
    assert evaluate["part"] == "holdout"


def test_training_and_evaluation_see_disjoint_patients(
    start: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first input tells the patient. Several records of one patient go to one part.
    seen: dict[str, set[int]] = {}

    def adapt(model: Any, theta: Params, patients: Patients, source: Any) -> Params:
        seen["train"] = {round(v * 1000) for v in patients.train.x[:, 0].tolist()}
        return {k: torch.zeros_like(v) for k, v in theta.items()}

    def watched(model: Any, x: torch.Tensor) -> torch.Tensor:
        seen["evaluate"] = {round(v * 1000) for v in x[:, 0].tolist()}
        return predict(model, x)

    learner = Learner("watching", learner_for(plan).init, adapt, learner_for(plan).apply)
    monkeypatch.setattr(client.agent, "learner_for", lambda plan: learner)
    monkeypatch.setattr(client.agent, "predict", watched)
    agent = start()
    for asked in (request(plan), request(plan, "evaluate", 3)):
        assert agent.handle(asked).header["status"] == "ok"
    assert seen["train"].isdisjoint(seen["evaluate"])
    assert seen["train"] | seen["evaluate"] == set(range(40))


def test_a_sites_noise_is_secret_unless_its_policy_gives_a_seed(
    tmp_path: Path, plan: Plan, open_agents: list[Agent]
) -> None:
    replies = []
    for name in ("one", "two", "three", "four"):
        seed = 7 if name in ("three", "four") else None
        site = hospital(tmp_path / name / "alpha", plan, policy=roomy(plan, noise_seed=seed))
        open_agents.append(Agent(site.folder, durable=False))
        replies.append(open_agents[-1].handle(request(plan)).payload)
    one, two, three, four = replies
    assert one != two
    assert three == four


def test_seeded_noise_differs_from_round_to_round_and_from_site_to_site(
    tmp_path: Path, plan: Plan, open_agents: list[Agent]
) -> None:
    # Equal noise would cancel out in a difference.
    text, payloads = csv_text(), set()
    for name in ("alpha", "beta"):
        open_agents.append(Agent(hospital(tmp_path / name, plan, text=text).folder, durable=False))
        for number in (1, 2):
            payloads.add(open_agents[-1].handle(request(plan, number=number)).payload)
    assert len(payloads) == 4


def test_the_same_request_twice_gives_the_same_bytes_after_a_restart_too(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    policy = roomy(plan, noise_seed=None)  # a second computation would give other bytes
    first = start(policy=policy).handle(request(plan))
    again = start(policy=policy).handle(request(plan))
    assert again == first
    assert len(entries(tmp_path)) == 1


def test_a_whole_run_fits_its_exact_price_and_not_one_round_more(start: Any, plan: Plan) -> None:
    agent = start(policy=Policy(epsilon=plan.epsilon, delta=plan.delta, runs=2, noise_seed=1))
    for number in (1, 2, 3):
        answer = agent.handle(request(plan, number=number))
        assert answer.header["epsilon"] == plan.epsilon_after(number)
        assert answer.header["reserves"] == number
    answer = agent.handle(request(plan, "evaluate", 3))
    assert answer.header["epsilon"] == plan.epsilon
    assert_refused(agent.handle(request(plan, run="second")), Reason.BUDGET)


# What is refused


def test_reasons_are_a_closed_set_without_patients() -> None:
    # What a reason says of patients is decided here, by whoever adds one to this list.
    assert sorted(r.name for r in Reason) == [
        "ALREADY_ANSWERED",
        "BUDGET",
        "BUSY",
        "CHANGED_REQUEST",
        "COHORT_CHANGED",
        "COHORT_TOO_SMALL",
        "DECLARED_TOO_SMALL",
        "DELTA_TOO_LARGE",
        "FAILED",
        "FALSE_RECEIPT",
        "LEARNER_NOT_ALLOWED",
        "LEDGER_BEHIND",
        "MALFORMED",
        "MODEL_NOT_ALLOWED",
        "MODEL_TOO_LARGE",
        "NOT_PRIVATE",
        "NO_POLICY",
        "OTHER_ADJACENCY",
        "OUTSIDE_HOURS",
        "OUT_OF_PLAN",
        "PAUSED",
        "RELEASE_NOT_ALLOWED",
        "RUN_LIMIT",
        "SIGMA_TOO_SMALL",
        "STUDY_BUDGET",
        "TOO_LARGE",
        "TOO_MANY_STEPS",
        "UNKNOWN_STUDY",
    ]


MALFORMED: list[dict[str, Any]] = [
    {"kind": None},
    {"kind": "predict"},
    {"kind": "__init__"},
    {"kind": ["train"]},
    {"kind": "train\x00"},
    {"digest": None},
    {"digest": 7},
    {"digest": ["a"]},
    {"run": None},
    {"run": ""},
    {"run": "r" * 129},
    {"run": {"a": 1}},
    {"round": None},
    {"round": "1"},
    {"round": 1.0},
    {"round": True},
    {"round": math.nan},
    {"payload": b""},
    {"payload": b"not tensors"},
    {"payload": encode({})},
]


@pytest.mark.parametrize("changes", MALFORMED, ids=str)
def test_a_malformed_request_is_refused(
    start: Any, plan: Plan, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert_refused(start().handle(request(plan, **changes)), Reason.MALFORMED)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("fault", ["nan", "inf", "shape", "extra", "missing", "type"])
@pytest.mark.parametrize(("kind", "number"), [("train", 1), ("evaluate", 3)])
def test_weights_that_do_not_fit_are_refused_before_anything_is_charged(
    start: Any, plan: Plan, tmp_path: Path, kind: str, number: int, fault: str
) -> None:
    weights = theta(plan)
    name = next(iter(weights))
    damage: dict[str, Params] = {
        "nan": {name: torch.full_like(weights[name], math.nan)},
        "inf": {name: torch.full_like(weights[name], -math.inf)},
        "shape": {name: weights[name][:1]},
        "extra": {"extra": torch.zeros(1)},
        "type": {name: weights[name].double()},
        "missing": {},
    }
    sent = {**weights, **damage[fault]}
    if fault == "missing":
        del sent[name]
    answer = start().handle(request(plan, kind, number, payload=encode(sent)))
    assert_refused(answer, Reason.MALFORMED)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("digest", ["../../x", "../approved/" + "./" * 26, "A" * 64, "0" * 64, ""])
def test_a_study_that_is_not_approved_here_is_unknown(
    start: Any, plan: Plan, tmp_path: Path, digest: str
) -> None:
    agent = start()
    (tmp_path / "x.toml").write_bytes(next((tmp_path / "alpha/approved").iterdir()).read_bytes())
    assert_refused(agent.handle(request(plan, digest=digest)), Reason.UNKNOWN_STUDY)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("join", 1),
        ("join", -1),
        ("train", 0),
        ("train", 4),
        ("train", -1),
        ("train", 10**30),
        ("evaluate", 0),
        ("evaluate", 2),
        ("evaluate", 4),
    ],
)
def test_a_round_that_the_plan_does_not_have_is_refused(
    start: Any, plan: Plan, tmp_path: Path, kind: str, number: int
) -> None:
    assert_refused(start().handle(request(plan, kind, number)), Reason.OUT_OF_PLAN)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("kind", ["join", "train"])
def test_each_limit_of_the_policy_is_held_by_the_agent(start: Any, plan: Plan, kind: str) -> None:
    number = 0 if kind == "join" else 1
    asked = request(plan, kind, number)
    assert_refused(start(declared=19).handle(asked), Reason.DECLARED_TOO_SMALL)
    assert_refused(start(declared=101).handle(asked), Reason.DELTA_TOO_LARGE)
    public = small_plan(privacy=None)
    assert_refused(start(public).handle(request(public, kind, number)), Reason.NOT_PRIVATE)


def test_a_run_more_than_the_policy_allows_is_refused(start: Any, plan: Plan) -> None:
    agent = start()
    assert agent.handle(request(plan, "join", 0)).header["status"] == "ok"
    assert_refused(agent.handle(request(plan, "join", 0, run="second")), Reason.RUN_LIMIT)
    assert_refused(agent.handle(request(plan, run="second")), Reason.RUN_LIMIT)


def test_a_round_whose_answer_is_gone_is_refused(start: Any, plan: Plan, tmp_path: Path) -> None:
    agent = start()
    for number in (1, 2):
        agent.handle(request(plan, number=number))
    assert_refused(agent.handle(request(plan, number=1)), Reason.ALREADY_ANSWERED)
    assert len(entries(tmp_path)) == 2


def test_an_approved_plan_that_was_edited_is_not_run(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    agent = start()
    path = tmp_path / "alpha" / "approved" / f"{plan.digest}.toml"
    path.write_text(path.read_text().replace("sigma = 4.0", "sigma = 0.4"))
    assert_refused(agent.handle(request(plan)), Reason.FAILED)
    assert entries(tmp_path) == []
    assert "does not hold the study" in log_of(tmp_path)


def test_an_unknown_price_in_the_ledger_stops_every_release(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    agent = start()
    agent.handle(request(plan))
    later = {"digest": "a later version's", "run": "main", "phase": "train", "round": 1}
    price = {"delta": 1e-3, "events": [{"kind": "laplace", "scale": 1.0}], "request": ""}
    with agent.ledger.transaction():
        agent.ledger._append("reserve", {**later, **price})
    assert_refused(agent.handle(request(plan, number=2)), Reason.FAILED)
    assert len(entries(tmp_path)) == 2
    assert "laplace" in log_of(tmp_path)


def test_the_policy_is_read_again_when_it_changes_and_without_one_nothing_runs(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    agent, path = start(), tmp_path / "alpha" / "policy.toml"
    assert agent.handle(request(plan)).header["status"] == "ok"
    text = path.read_text()
    path.unlink()
    assert_refused(agent.handle(request(plan, number=2)), Reason.NO_POLICY)
    path.write_text("epsilon = 'much'\n")
    assert_refused(agent.handle(request(plan, number=2)), Reason.NO_POLICY)
    assert "'much'" in log_of(tmp_path)
    path.write_text(text + "max_steps = 1\n")
    assert_refused(agent.handle(request(plan, number=2)), Reason.TOO_MANY_STEPS)
    path.write_text(text)
    assert agent.handle(request(plan, number=2)).header["status"] == "ok"


def test_an_agent_without_a_policy_does_not_start(plan: Plan, tmp_path: Path) -> None:
    hospital(tmp_path / "alpha", plan)
    (tmp_path / "alpha" / "policy.toml").unlink()
    with pytest.raises(SiteError, match="nothing runs") as caught:
        Agent(tmp_path / "alpha", durable=False)
    assert "policy.toml" in caught.value.message


def test_a_request_of_a_size_or_a_model_above_the_limit_is_refused(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    # Two inputs, two classes: 6 weights of 4 bytes, four times, are 96 bytes.
    small = request(plan, payload=bytes(1001))
    agent = start(policy=roomy(plan, max_message_mb=0.001))
    assert_refused(agent.handle(small), Reason.TOO_LARGE)
    exact = start(policy=roomy(plan, memory_gb=96e-9))
    assert exact.handle(request(plan)).header["status"] == "ok"
    less = start(policy=roomy(plan, memory_gb=95e-9))
    assert_refused(less.handle(request(plan, number=2)), Reason.MODEL_TOO_LARGE)
    assert len(entries(tmp_path)) == 1


def test_outside_its_hours_a_site_does_not_answer(plan: Plan, tmp_path: Path) -> None:
    hospital(tmp_path / "alpha", plan, policy=roomy(plan, hours="20:00-06:00"))
    times = [datetime(2026, 1, 1, 12), datetime(2026, 1, 1, 21)]
    agent = Agent(tmp_path / "alpha", durable=False, clock=lambda: times.pop(0))
    assert_refused(agent.handle(request(plan)), Reason.OUTSIDE_HOURS)
    assert agent.handle(request(plan)).header["status"] == "ok"
    agent.close()


def test_a_site_that_paused_refuses_everything_until_it_resumes(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    agent = start()
    agent.handle(request(plan))
    agent.ledger.record("pause", {"by": "a test"})
    for asked in (request(plan, "join", 0), request(plan), request(plan, number=2)):
        assert_refused(agent.handle(asked), Reason.PAUSED)
    agent.ledger.record("resume", {"by": "a test"})
    assert agent.handle(request(plan, number=2)).header["status"] == "ok"


def test_a_revoked_study_stops_at_once_though_it_is_warm(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    # Break it once: keep the plan that was read, and the second request is answered.
    agent, path = start(), tmp_path / "alpha" / "approved" / f"{plan.digest}.toml"
    assert agent.handle(request(plan)).header["status"] == "ok"
    text = path.read_text()
    path.unlink()
    assert_refused(agent.handle(request(plan, number=2)), Reason.UNKNOWN_STUDY)
    path.write_text(text)
    assert agent.handle(request(plan, number=2)).header["status"] == "ok"


def test_an_approval_for_one_run_holds_where_the_policy_lets_more(start: Any, plan: Plan) -> None:
    agent = start(policy=roomy(plan, epsilon=1e3, runs=3))
    body = {"digest": plan.digest, "study": "small", "runs": 1, "by": "a test"}
    agent.ledger.record("approval", body)
    assert agent.handle(request(plan)).header["status"] == "ok"
    assert_refused(agent.handle(request(plan, run="second")), Reason.RUN_LIMIT)


def test_another_studys_rounds_cannot_eat_what_a_begun_one_still_needs(
    start: Any, plan: Plan
) -> None:
    other = small_plan(name="other")
    room = roomy(plan, epsilon=plan.epsilon + other.epsilon_after(1), delta=1.0 - 1e-9)
    agent = start(plan, other, policy=room)
    assert agent.handle(request(plan)).header["status"] == "ok"
    assert_refused(agent.handle(request(other)), Reason.BUDGET)
    for number in (2, 3):
        assert agent.handle(request(plan, number=number)).header["status"] == "ok"


def test_an_approval_that_no_longer_holds_stops_its_own_study_alone(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    # As after an upgrade under which the other study's rules have another digest.
    other = small_plan(name="other")
    agent = start(plan, other, policy=roomy(plan, epsilon=10.0, delta=0.01))
    assert agent.handle(request(other)).header["status"] == "ok"
    path = tmp_path / "alpha" / "approved" / f"{other.digest}.toml"
    path.write_text(path.read_text().replace("bins = 4", "bins = 6"))
    assert agent.handle(request(plan)).header["status"] == "ok"
    assert_refused(agent.handle(request(other, number=2)), Reason.FAILED)


def test_refusals_are_in_the_ledger_with_what_was_asked(start: Any, plan: Plan) -> None:
    agent = start()
    agent.handle(request(plan, number=9))
    agent.handle(request(plan, digest=["a" * 500]))
    one, two = [dict(e.body) for e in agent.ledger.entries("refusal")]
    assert (one["reason"], one["digest"], one["round"]) == ("OUT_OF_PLAN", plan.digest, "9")
    assert two["reason"] == "MALFORMED"
    assert len(two["digest"]) <= 128


def test_the_same_round_with_other_weights_is_refused(start: Any, plan: Plan) -> None:
    agent = start()
    agent.handle(request(plan))
    other = {k: v + 1 for k, v in theta(plan).items()}
    answer = agent.handle(request(plan, payload=encode(other)))
    assert_refused(answer, Reason.CHANGED_REQUEST)


# A site with a secret: what was approved, and who has withdrawn


@pytest.fixture
def own(tmp_path: Path, plan: Plan, open_agents: list[Agent]) -> Agent:
    """Return the agent of a site that was set up as hospitals do, with the study approved."""
    folder = made_site(tmp_path / "alpha")
    policy = folder / "policy.toml"
    policy.write_text(policy.read_text() + "noise_seed = 7\n")
    agent = Agent(folder, durable=False)
    open_agents.append(agent)
    approve(load_site(folder), agent.ledger, plan)
    return agent


def test_a_cohort_that_changed_since_approval_is_not_read_until_it_is_confirmed(
    own: Agent, plan: Plan, tmp_path: Path
) -> None:
    patients = tmp_path / "alpha.csv"
    patients.write_text(patients.read_text() + "p99,99,120.0,ill\n")
    for _ in range(2):  # a change is a fact about patients: the coordinator hears of a pause
        assert_refused(own.handle(request(plan)), Reason.PAUSED)
    assert entries(tmp_path) == []
    assert own.ledger.entries("refusal")[-1].body["reason"] == "COHORT_CHANGED"
    perform_locally(own, "confirm", {"by": "a test"})
    assert own.handle(request(plan)).header["status"] == "ok"


def test_a_warm_agent_notices_an_approval_for_more_runs(own: Agent, plan: Plan) -> None:
    # Break it once: keep what the first approval covered.
    second = request(plan, run="second")
    assert own.handle(request(plan)).header["status"] == "ok"
    assert_refused(own.handle(second), Reason.RUN_LIMIT)
    policy = own.folder / "policy.toml"
    policy.write_text(policy.read_text().replace("runs = 1", "runs = 2"))
    assert_refused(own.handle(second), Reason.RUN_LIMIT)  # the board's word still covers one
    perform_locally(own, "approve", {"study": plan.study.rules(), "runs": 2})
    assert own.handle(second).header["status"] == "ok"


def test_a_cohort_that_changes_while_the_agent_is_warm_waits_for_the_next_start(
    own: Agent, plan: Plan, tmp_path: Path, open_agents: list[Agent]
) -> None:
    assert own.handle(request(plan)).header["status"] == "ok"
    patients = tmp_path / "alpha.csv"
    patients.write_text(patients.read_text() + "p99,99,120.0,ill\n")
    assert own.handle(request(plan, number=2)).header["status"] == "ok"
    open_agents.append(Agent(own.folder, durable=False))
    assert_refused(open_agents[-1].handle(request(plan, number=3)), Reason.PAUSED)


def test_whoever_withdraws_is_in_no_later_round_of_a_warm_agent(
    own: Agent, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Break it once: keep the patients that were read. The first input tells the patient.
    seen: list[set[int]] = []

    def adapt(model: Any, theta: Params, patients: Patients, source: Any) -> Params:
        seen.append({round(v * 1000) for v in patients.train.x[:, 0].tolist()})
        assert patients.declared == 40  # the public divisor stays what it was
        return {k: torch.zeros_like(v) for k, v in theta.items()}

    learner = Learner("watching", learner_for(plan).init, adapt, learner_for(plan).apply)
    monkeypatch.setattr(client.agent, "learner_for", lambda plan: learner)
    own.handle(request(plan))
    gone = min(seen[0])
    perform_locally(own, "withdraw", {"patient": f"p{gone}"})
    own.handle(request(plan, number=2))
    assert seen[1] == seen[0] - {gone}


def test_a_delivered_model_is_kept_with_its_card_and_costs_nothing(
    own: Agent, plan: Plan, tmp_path: Path
) -> None:
    own.handle(request(plan))
    before = own.handle(request(plan)).header["epsilon"]
    answer = own.handle(request(plan, "deliver", 3, card="# Model card"))
    assert (answer.header["status"], answer.header["epsilon"]) == ("ok", before)
    assert decode(answer.payload) == {}
    folder = tmp_path / "alpha" / "models" / "main"
    assert (folder / "model_card.md").read_text() == "# Model card"
    assert set(decode((folder / "model.safetensors").read_bytes())) == set(theta(plan))
    assert_refused(own.handle(request(plan, "deliver", 2)), Reason.OUT_OF_PLAN)
    assert_refused(own.handle(request(plan, "deliver", 3, card=7)), Reason.MALFORMED)


# What stays at the site


def test_a_failure_tells_the_coordinator_nothing_of_patients_and_the_site_everything(
    start: Any, plan: Plan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Both the reason and the traceback quote the record.
    agent = start(text=csv_text().replace("p7,7,", "p7,Jane-Doe,"))
    answer = agent.handle(request(plan))
    assert_refused(answer, Reason.COHORT_CHANGED.told)
    assert "Jane-Doe" not in json.dumps(answer.header) + answer.payload.decode()
    assert "Jane-Doe" in log_of(tmp_path)
    assert "Jane" not in "".join(capfd.readouterr())


def test_a_failure_is_paid_for_and_the_site_goes_on(start: Any, plan: Plan, tmp_path: Path) -> None:
    agent = start()
    patients = tmp_path / "alpha" / "patients.csv"
    kept = patients.rename(tmp_path / "elsewhere.csv")
    assert_refused(agent.handle(request(plan)), Reason.COHORT_CHANGED.told)
    kept.rename(patients)
    answer = agent.handle(request(plan))
    assert (answer.header["status"], answer.header["reserves"]) == ("ok", 2)
    assert [state for _, state, _ in entries(tmp_path)] == ["reserved", "committed"]


def test_patients_are_not_even_opened_for_a_request_that_is_refused(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    agent = start(policy=roomy(plan, epsilon=1e-6))
    (tmp_path / "alpha" / "patients.csv").unlink()
    assert_refused(agent.handle(request(plan)), Reason.BUDGET)


def test_a_value_that_is_not_finite_is_stopped_at_the_door(
    start: Any, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adapt(model: Any, theta: Params, patients: Patients, source: Any) -> Params:
        return {k: torch.full_like(v, math.nan) for k, v in theta.items()}

    learner = Learner("broken", learner_for(plan).init, adapt, learner_for(plan).apply)
    monkeypatch.setattr(client.agent, "learner_for", lambda plan: learner)
    assert_refused(start().handle(request(plan)), Reason.FAILED)
    assert [state for _, state, _ in entries(tmp_path)] == ["reserved"]


def test_weights_at_the_edge_of_the_number_range_are_no_way_to_make_a_site_fail(
    start: Any, plan: Plan
) -> None:
    # Logits overflow to infinity and gradients to NaN: which requests fail must not tell patients.
    huge = {k: torch.full_like(v, 3e38) for k, v in theta(plan).items()}
    agent = start()
    for kind, number in (("train", 1), ("evaluate", 3)):
        answer = agent.handle(request(plan, kind, number, payload=encode(huge)))
        assert answer.header["status"] == "ok"


def test_counts_of_clamped_and_missing_values_stay_in_the_sites_log(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    text = csv_text() + "p90,90,999,ill\np91,91,,well\n"
    agent = start(text=text)
    answers = [agent.handle(request(plan, "join", 0)), agent.handle(request(plan))]
    log = log_of(tmp_path)
    assert "pressure: 1 out of [60, 220], clamped" in log
    assert "pressure: 1 missing" in log
    expected = {"status", "digest", "run", "round", "site", "epsilon", "reserves"}
    assert set(answers[0].header) == expected | {"declared", "noise"}
    assert set(answers[1].header) == expected
    assert set(decode(answers[1].payload)) == set(params_of(build(plan.study)))


def test_an_interrupt_is_not_swallowed_and_does_not_lock_the_agent(
    start: Any, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> Params:
        raise KeyboardInterrupt

    agent, learner = start(), learner_for(plan)
    with monkeypatch.context() as patch:
        broken = Learner("stopped", learner.init, stop, learner.apply)
        patch.setattr(client.agent, "learner_for", lambda plan: broken)
        with pytest.raises(KeyboardInterrupt):
            agent.handle(request(plan))
    assert [state for _, state, _ in entries(tmp_path)] == ["reserved"]
    assert agent.handle(request(plan)).header["reserves"] == 2


def test_every_answer_can_travel(start: Any, plan: Plan) -> None:
    agent = start()
    hostile = request(plan, run="\ud800")
    for asked in (request(plan, "join", 0), request(plan), request(plan, number=9), hostile):
        pack(agent.handle(asked))


# The transport of a simulation


def context(node: dict[str, Any], run: dict[str, Any]) -> Context:
    return Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=run)


@pytest.fixture
def _warm() -> Iterator[None]:
    agent_of.cache_clear()
    yield
    agent_of.cache_clear()


@pytest.mark.usefixtures("_warm")
def test_a_simulated_node_finds_its_folder_by_its_place_among_the_names(
    tmp_path: Path, plan: Plan
) -> None:
    for name in ("beta", "alpha"):
        hospital(tmp_path / "sites" / name, plan)
    run = {"sites-dir": str(tmp_path / "sites")}
    join = request(plan, "join", 0)
    for number, name in enumerate(("alpha", "beta")):
        handle = folder_transport(context({"partition-id": number}, run))
        assert handle(join).header["site"] == name
        agent_of(tmp_path / "sites" / name).close()


@pytest.mark.usefixtures("_warm")
def test_a_nodes_own_folder_comes_before_anything_the_run_names(tmp_path: Path, plan: Plan) -> None:
    for name in ("sites/alpha", "own"):
        hospital(tmp_path / name, plan)
    node = {"site-dir": str(tmp_path / "own"), "partition-id": 0}
    handle = folder_transport(context(node, {"sites-dir": str(tmp_path / "sites")}))
    assert handle(request(plan, "join", 0)).header["site"] == "own"
    agent_of(tmp_path / "own").close()


@pytest.mark.parametrize(
    ("node", "run"),
    [
        ({}, {}),
        ({"partition-id": 0}, {}),
        ({"partition-id": 0}, {"sites-dir": ""}),
        ({}, {"sites-dir": "somewhere"}),
    ],
)
def test_a_node_without_a_folder_is_told_how_to_name_one(
    node: dict[str, Any], run: dict[str, Any]
) -> None:
    with pytest.raises(SiteError) as caught:
        folder_transport(context(node, run))
    assert "site-dir" in caught.value.remedy
