"""The agent: what it answers the coordinator, what it keeps to itself, what it never raises."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict

import client.agent
from client.agent import Agent, agent_of, folder_transport
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
from tests.small_world import csv_text, hospital, roomy, small_plan


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


def entries(folder: Path) -> list[tuple[str, str, str]]:
    db = sqlite3.connect(folder / "alpha" / "ledger.sqlite")
    rows = db.execute("SELECT phase, state, events FROM entries ORDER BY id").fetchall()
    db.close()
    return rows


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
    assert counts.shape == (1, 2, 4)
    torch.testing.assert_close(
        counts, torch.from_numpy(exact + noise.reshape(1, 2, 4)), rtol=0, atol=1e-12
    )


def test_joining_says_a_name_and_the_declared_size_and_reads_no_patient(
    start: Any, plan: Plan, tmp_path: Path
) -> None:
    agent = start()
    (tmp_path / "alpha" / "patients.csv").unlink()
    answer = agent.handle(request(plan, "join", 0, payload=b""))
    names = {"digest": plan.digest, "run": "main", "round": 0, "site": "alpha"}
    receipt = {"epsilon": 0.0, "reserves": 0}
    assert answer.header == {"status": "ok", **names, "declared": 40, **receipt}
    assert decode(answer.payload) == {}


def test_everything_but_joining_has_a_price(start: Any, plan: Plan, tmp_path: Path) -> None:
    agent = start()
    for asked in (request(plan, "join", 0), request(plan), request(plan, "evaluate", 3)):
        assert agent.handle(asked).header["status"] == "ok"
    prices = {phase: json.loads(events) for phase, _, events in entries(tmp_path)}
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
    assert sorted(r.name for r in Reason) == [
        "ALREADY_ANSWERED",
        "BUDGET",
        "DECLARED_TOO_SMALL",
        "DELTA_TOO_LARGE",
        "FAILED",
        "MALFORMED",
        "NOT_PRIVATE",
        "OUT_OF_PLAN",
        "RUN_LIMIT",
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
    db = sqlite3.connect(tmp_path / "alpha" / "ledger.sqlite")
    db.execute("""UPDATE entries SET events = '[{"kind": "laplace", "scale": 1.0}]'""")
    db.commit()
    db.close()
    assert_refused(agent.handle(request(plan, number=2)), Reason.FAILED)
    assert len(entries(tmp_path)) == 1
    assert "laplace" in log_of(tmp_path)


# What stays at the site


def test_a_failure_tells_the_coordinator_nothing_of_patients_and_the_site_everything(
    start: Any, plan: Plan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Both the reason and the traceback quote the record.
    agent = start(text=csv_text().replace("p7,7,", "p7,Jane-Doe,"))
    answer = agent.handle(request(plan))
    assert_refused(answer, Reason.FAILED)
    assert "Jane-Doe" not in json.dumps(answer.header) + answer.payload.decode()
    assert "Jane-Doe" in log_of(tmp_path)
    assert "Jane" not in "".join(capfd.readouterr())


def test_a_failure_is_paid_for_and_the_site_goes_on(start: Any, plan: Plan, tmp_path: Path) -> None:
    agent = start()
    patients = tmp_path / "alpha" / "patients.csv"
    kept = patients.rename(tmp_path / "elsewhere.csv")
    assert_refused(agent.handle(request(plan)), Reason.FAILED)
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
    assert set(answers[0].header) == expected | {"declared"}
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
