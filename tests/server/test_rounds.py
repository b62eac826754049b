"""The round loop over real hospitals in this process: quorum, deadline, blame, and resuming."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Error, Message

import client.app
import server.rounds
from client.agent import close_agents
from common.codec import decode, encode
from common.errors import RunError
from common.learners import learner_for
from common.learners.types import State
from common.models import initial_params
from common.params import Params
from common.plan import Plan
from common.wire import Envelope, pack, unpack
from server.checkpoint import at_round, latest, load_state
from server.rounds import Federation, evaluate, join, run, train
from server.store import Store
from simulations.grid import ClientCallable, InProcessGrid
from tests.small_world import hospital, roomy, small_plan

# Neither the order in which the grid names them nor that of the ids is that of the names.
NODES = {20: "gamma", 30: "alpha", 10: "beta"}
DECLARED = {"alpha": 40, "beta": 60, "gamma": 80}
Fault = Callable[[Message, Context], Message]


class Faulty:
    """The relay, with faults: (hospital, kind, round) -> what happens instead."""

    def __init__(self, faults: dict[tuple[str, str, int], Fault] | None = None) -> None:
        self.faults = faults or {}
        self.asked: list[tuple[str, str, int]] = []

    def __call__(self, message: Message, context: Context) -> Message:
        header = unpack(message.content).header
        name = (NODES[context.node_id], header["kind"], header["round"])
        self.asked.append(name)
        return self.faults.get(name, client.app.app)(message, context)


class DeafGrid(InProcessGrid):
    """Loses every message to some nodes."""

    deaf: frozenset[int] = frozenset()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        waiting = {i: m for i, m in self._waiting.items() if i in set(message_ids)}
        return super().pull_messages(
            [i for i, m in waiting.items() if m.metadata.dst_node_id not in self.deaf]
        )


class World:
    """Three hospitals' folders, a run folder, and the federation over them."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.sites, self.run_dir = folder / "sites", folder / "run"
        self.run_dir.mkdir(parents=True)
        for seed, name in enumerate(sorted(DECLARED)):
            policy = roomy(plan, epsilon=1e3, allow_unprotected=True)
            hospital(self.sites / name, plan, policy=policy, declared=DECLARED[name], seed=seed)
        self.store = Store(self.run_dir)

    def federation(self, client_app: ClientCallable | None = None, **changes: Any) -> Federation:
        names = sorted(DECLARED)
        nodes = {node: {"partition-id": names.index(name)} for node, name in NODES.items()}
        config = {"sites-dir": str(self.sites)}
        grid = DeafGrid(client_app or client.app.app, nodes=nodes, run_config=config)
        grid.deaf = changes.pop("deaf", frozenset())
        fields = {"store": self.store, "run_dir": self.run_dir, "expected": 3, **changes}
        return Federation(grid=grid, plan=self.plan, job="main", **fields)

    def start(self) -> Params:
        return initial_params(self.plan.study, seed=1)

    def run(self, client_app: ClientCallable | None = None, **changes: Any) -> State:
        return run(self.federation(client_app, **changes), self.start)

    def statuses(self, kind: str, number: int) -> dict[str, tuple[str, str]]:
        return {
            r["site"]: (r["status"], r["reason"])
            for r in self.store.replies("main")
            if (r["phase"], r["round"]) == (kind, number)
        }

    def charged(self, name: str) -> list[tuple[str, int, str]]:
        db = sqlite3.connect(self.sites / name / "ledger.sqlite")
        query = "SELECT phase, round, state FROM entries WHERE phase != 'join' ORDER BY id"
        rows = db.execute(query).fetchall()
        db.close()
        return rows

    def close(self) -> None:
        self.store.close()
        close_agents()


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def new(**tables: Any) -> World:
        worlds.append(World(tmp_path / f"world-{len(worlds)}", small_plan(**tables)))
        return worlds[-1]

    close_agents()
    yield new
    for world in worlds:
        world.close()


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    return new_world()


def says(envelope: Envelope) -> Fault:
    return lambda message, context: Message(pack(envelope), reply_to=message)


def breaks(message: Message, context: Context) -> Message:
    # Flower's own error replies have a source of 1.
    reply = Message(Error(code=2, reason="Traceback\nOSError: gone"), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = 1
    return reply


def dies(message: Message, context: Context) -> Message:
    raise KeyboardInterrupt


def dies_after_answering(message: Message, context: Context) -> Message:
    client.app.app(message, context)
    raise KeyboardInterrupt


# A run as it should be


def test_a_run_is_join_then_every_round_then_one_evaluation(world: World) -> None:
    relay = Faulty()
    state = world.run(relay)
    phases = [("join", 0), ("train", 1), ("train", 2), ("train", 3), ("evaluate", 3)]
    expected = [(name, *phase) for phase in phases for name in DECLARED]
    assert sorted(relay.asked) == sorted(expected)
    assert [a[1:] for a in relay.asked[::3]] == phases
    assert state.round == 3
    assert latest(world.federation().folder) == at_round(world.federation().folder, 3)
    assert world.store.rounds_done() == 3


def test_a_round_is_the_learners_step_on_the_hospitals_deltas_by_declared_size(
    world: World,
) -> None:
    # The same step by hand: theta + (40 a + 60 b + 80 c) / 180.
    deltas: dict[str, Params] = {}

    def recording(message: Message, context: Context) -> Message:
        reply = client.app.app(message, context)
        if unpack(message.content).header["kind"] == "train":
            deltas[NODES[context.node_id]] = decode(unpack(reply.content).payload)
        return reply

    federation = world.federation(recording)
    state = State(world.start())
    contributions = train(federation, join(federation), state)
    after = learner_for(world.plan).apply(state, contributions)
    for name, before in state.params.items():
        step = sum(DECLARED[s] * deltas[s][name] for s in DECLARED) / 180
        torch.testing.assert_close(after.params[name], before + step, rtol=0, atol=1e-6)
    assert [c.declared for c in contributions] == [40, 60, 80]


def test_members_answers_receipts_and_histograms_are_in_the_store(world: World) -> None:
    world.run()
    members = {m["site"]: (m["declared"], m["status"]) for m in world.store.members("main")}
    assert members == {name: (size, "took part") for name, size in DECLARED.items()}
    plan = world.plan
    for reply in world.store.replies("main"):
        number, is_last = reply["round"], reply["phase"] == "evaluate"
        spent = plan.epsilon if is_last else plan.epsilon_after(number)
        assert (reply["status"], reply["reason"]) == ("ok", "")
        assert (reply["epsilon"], reply["reserves"]) == (spent, number + is_last)
    assert len(world.store.replies("main")) == 12
    histograms = world.store.histograms("main")
    assert set(histograms) == set(DECLARED)
    assert all(sigma == plan.evaluation_sigma for sigma, _ in histograms.values())
    assert torch.tensor(histograms["beta"][1]).shape == (1, 2, 4)


def test_a_study_without_privacy_leaves_no_epsilon_in_the_store(
    new_world: Callable[..., World],
) -> None:
    world = new_world(privacy=None)
    world.run()
    replies = world.store.replies("main")
    assert {(r["status"], r["epsilon"]) for r in replies} == {("ok", None)}


# Who takes part


def test_hospitals_that_do_not_join_are_left_out_with_their_reason(world: World) -> None:
    (world.sites / "beta" / "approved" / f"{world.plan.digest}.toml").unlink()
    relay = Faulty({("gamma", "join", 0): breaks})
    with pytest.raises(RunError) as caught:
        world.run(relay)
    assert "1 of 3 hospitals take part, the quorum (rounds.quorum) is 2" in caught.value.message
    assert "beta: left out: study not approved here" in caught.value.message
    assert "node 20: left out: error 2: OSError: gone" in caught.value.message
    assert "rounds.quorum" in caught.value.remedy
    assert all(kind == "join" for _, kind, _ in relay.asked)


def test_a_quorum_is_enough_and_who_is_left_out_is_not_asked_again(world: World) -> None:
    relay = Faulty({("beta", "join", 0): breaks})
    world.run(relay)
    assert {s for s, kind, _ in relay.asked if kind != "join"} == {"alpha", "gamma"}
    statuses = {m["site"]: m["status"] for m in world.store.members("main")}
    assert statuses["node 10"] == "left out: error 2: OSError: gone"
    assert statuses["alpha"] == statuses["gamma"] == "took part"


OK = {"status": "ok", "site": "beta", "declared": 60}


@pytest.mark.parametrize(
    ("header", "declared"),
    [
        ({"declared": 0}, None),
        ({"declared": -5}, None),
        ({"declared": True}, None),
        ({"declared": 60.0}, None),
        ({"declared": "60"}, None),
        ({"declared": [60]}, None),
        ({"declared": None}, None),
        ({"declared": 10**400}, None),
        ({"declared": 10**12}, None),
        ({"site": None}, 60),
        ({"site": ["beta"]}, 60),
        ({"site": ""}, 60),
        ({"site": "Beta <b>"}, 60),
        ({"site": "\ud800"}, 60),
        ({"site": "b" * 65}, 60),
        ({"site": "alpha"}, 60),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, dict) else "",
)
def test_a_hospital_whose_introduction_cannot_be_believed_is_left_out_and_said_to_be(
    world: World, header: dict[str, Any], declared: int | None
) -> None:
    # The name of another, a size that is no count: none of it may reach the weights or end the run.
    relay = Faulty({("beta", "join", 0): says(Envelope({**OK, **header}))})
    assert world.run(relay).round == 3
    rows = {m["site"]: m for m in world.store.members("main")}
    assert rows["alpha"]["declared"] == 40
    assert {n: r["status"] for n, r in rows.items() if n in DECLARED and n != "beta"} == {
        "alpha": "took part",
        "gamma": "took part",
    }
    [beta] = [r for n, r in rows.items() if n in ("beta", "node 10")]
    assert beta["status"].startswith("left out: its ")
    assert beta["declared"] == declared


def test_a_refusal_under_anothers_name_is_not_blamed_on_the_other(world: World) -> None:
    forged = Envelope({"status": "refused", "reason": "no", "site": "alpha"})
    world.run(Faulty({("beta", "join", 0): says(forged)}))
    rows = {m["site"]: m["status"] for m in world.store.members("main")}
    assert rows == {"alpha": "took part", "node 10": "left out: no", "gamma": "took part"}


class FakeTime:
    """The time module, on a clock that moves only by sleeping."""

    def __init__(self, on_sleep: Callable[[], None] = lambda: None) -> None:
        self.now, self.on_sleep = 0.0, on_sleep

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


def test_the_start_waits_for_the_expected_hospitals(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = world.federation()
    late = federation.grid._contexts.pop(20)  # type: ignore[attr-defined]
    fake = FakeTime(lambda: federation.grid._contexts.update({20: late}))  # type: ignore[attr-defined]
    monkeypatch.setattr(server.rounds, "time", fake)
    assert [m.name for m in join(federation)] == ["alpha", "beta", "gamma"]
    assert fake.now == server.rounds.POLL_S


@pytest.mark.parametrize(("expected", "waited"), [(3, True), (0, False)])
def test_the_start_waits_no_longer_than_the_deadline_or_the_quorum(
    world: World, monkeypatch: pytest.MonkeyPatch, expected: int, waited: bool
) -> None:
    federation = world.federation(expected=expected)
    federation.grid._contexts.pop(20)  # type: ignore[attr-defined]
    fake = FakeTime()
    monkeypatch.setattr(server.rounds, "time", fake)
    assert [m.name for m in join(federation)] == ["alpha", "beta"]
    assert (fake.now >= 60.0) is waited


# When hospitals fail in a round


def test_failures_are_recorded_under_the_hospital_that_failed(world: World) -> None:
    relay = Faulty({("beta", "train", 2): breaks, ("gamma", "evaluate", 3): breaks})
    assert world.run(relay).round == 3
    fine = ("ok", "")
    failed = ("failed", "error 2: OSError: gone")
    assert world.statuses("train", 1) == {"alpha": fine, "beta": fine, "gamma": fine}
    assert world.statuses("train", 2) == {"alpha": fine, "beta": failed, "gamma": fine}
    assert world.statuses("train", 3) == {"alpha": fine, "beta": fine, "gamma": fine}
    assert world.statuses("evaluate", 3) == {"alpha": fine, "beta": fine, "gamma": failed}
    assert set(world.store.histograms("main")) == {"alpha", "beta"}


def test_a_refusal_in_a_round_is_recorded_with_the_sites_reason(world: World) -> None:
    # beta's patients cannot be read: it says so in its one general sentence.
    (world.sites / "beta" / "patients.csv").unlink()
    world.run()
    status, reason = world.statuses("train", 1)["beta"]
    assert (status, reason) == (
        "refused",
        "the site could not compute an answer; its own log says why",
    )


def test_a_silent_hospital_is_missing_from_the_mean_and_named(
    new_world: Callable[..., World],
) -> None:
    # A deadline of a nanosecond: what is there when first asked for counts, and nobody sleeps.
    world = new_world(rounds={"deadline_s": 1e-9})
    federation = world.federation()
    members, state = join(federation), State(world.start())
    federation = world.federation(deaf=frozenset({10}))
    contributions = train(federation, members, state)
    assert [c.declared for c in contributions] == [40, 80]
    assert world.statuses("train", 1)["beta"] == ("silent", "no answer within 1e-09 s")


def test_below_the_quorum_the_round_stops_the_run_and_names_who_failed(world: World) -> None:
    relay = Faulty({("alpha", "train", 2): breaks, ("gamma", "train", 2): breaks})
    with pytest.raises(RunError) as caught:
        world.run(relay)
    message = caught.value.message
    assert "round 2: 1 of 3 hospitals answered, the quorum (rounds.quorum) is 2" in message
    assert "alpha failed: error 2: OSError: gone; gamma failed: error 2: OSError: gone" in message
    assert "beta" not in message
    assert latest(world.federation().folder) == at_round(world.federation().folder, 1)
    assert world.statuses("train", 2)["beta"] == ("ok", "")


def like(plan: Plan) -> Params:
    return initial_params(plan.study, seed=1)


BAD: dict[str, Callable[[Params], bytes]] = {
    "junk": lambda p: b"\x80\x04junk",
    "empty": lambda p: b"",
    "extra": lambda p: encode({**p, "more": torch.zeros(1)}),
    "missing": lambda p: encode(dict(list(p.items())[1:])),
    "shape": lambda p: encode({k: v[..., :1] for k, v in p.items()}),
    "type": lambda p: encode({k: v.double() for k, v in p.items()}),
    "nan": lambda p: encode({k: torch.full_like(v, math.nan) for k, v in p.items()}),
    "inf": lambda p: encode({k: torch.full_like(v, math.inf) for k, v in p.items()}),
    "unknown": lambda p: (
        bytes([64, *[0] * 7])
        + b'{"w":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'.ljust(64)
        + b"\0"
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_delta_that_does_not_fit_is_dropped_and_the_round_goes_on(
    world: World, fault: str
) -> None:
    answer = Envelope({"status": "ok", "site": "beta"}, BAD[fault](like(world.plan)))
    federation = world.federation(Faulty({("beta", "train", 1): says(answer)}))
    state = State(world.start())
    contributions = train(federation, join(federation), state)
    assert [c.declared for c in contributions] == [40, 80]
    status, reason = world.statuses("train", 1)["beta"]
    assert status == "failed"
    assert reason


def test_a_histogram_that_does_not_fit_is_dropped(world: World) -> None:
    counts = {"counts": torch.zeros(1, 2, 5, dtype=torch.float64)}
    relay = Faulty({("beta", "evaluate", 3): says(Envelope({"status": "ok"}, encode(counts)))})
    federation = world.federation(relay)
    evaluate(federation, join(federation), State(world.start(), round=3))
    assert set(world.store.histograms("main")) == {"alpha", "gamma"}
    assert world.statuses("evaluate", 3)["beta"][0] == "failed"


@pytest.mark.parametrize(
    "receipt",
    [
        {"epsilon": "much", "reserves": "many"},
        {"epsilon": [1.0], "reserves": True},
        {"epsilon": 10**400, "reserves": 10**400},
        {"epsilon": math.nan, "reserves": -1},
        {"epsilon": math.inf, "reserves": 1.5},
        {},
    ],
    ids=str,
)
def test_a_receipt_that_means_nothing_does_not_cost_the_delta(
    world: World, receipt: dict[str, Any]
) -> None:
    payload = encode(like(world.plan))
    answer = Envelope({"status": "ok", "site": "beta", **receipt}, payload)
    federation = world.federation(Faulty({("beta", "train", 1): says(answer)}))
    assert len(train(federation, join(federation), State(world.start()))) == 3
    [row] = [r for r in world.store.replies("main") if r["site"] == "beta"]
    assert (row["status"], row["epsilon"], row["reserves"]) == ("ok", None, None)


# When the coordinator dies


def final(world: World) -> dict[str, dict[str, bytes]]:
    """Return the bits of the final weights and moments (the order of a file's header varies)."""
    folder, count = world.federation().folder, world.plan.study.rounds.count
    state = load_state(at_round(folder, count), digest=world.plan.digest)
    groups = {"params": state.params, **state.moments}
    return {g: {k: v.numpy().tobytes() for k, v in p.items()} for g, p in groups.items()}


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("fault", [dies, dies_after_answering])
def test_a_run_that_died_in_a_round_ends_in_the_same_weights_bit_for_bit(
    new_world: Callable[..., World], optimizer: str, fault: Fault
) -> None:
    # Hospitals that had answered give their stored answer: round 3 is computed once at each.
    # Break it once: lose the moments, or apply the interrupted round twice.
    tables = {"rounds": {"count": 4}, "server": {"optimizer": optimizer, "learning_rate": 0.7}}
    whole, broken = new_world(**tables), new_world(**tables)
    whole.run()
    relay = Faulty({("beta", "train", 3): fault})
    with pytest.raises(KeyboardInterrupt):
        broken.run(relay)
    asked_before = len(relay.asked)
    assert latest(broken.federation().folder) == at_round(broken.federation().folder, 2)
    relay.faults.clear()
    broken.run(relay)
    assert {n for _, kind, n in relay.asked[asked_before:] if kind == "train"} == {3, 4}
    moments = {"sgd": 0, "momentum": 1, "adam": 2}[optimizer]
    assert len(final(whole)) == 1 + moments
    assert final(broken) == final(whole)
    assert broken.store.histograms("main") == whole.store.histograms("main")
    for name in DECLARED:
        assert broken.charged(name) == whole.charged(name)
        assert len(broken.charged(name)) == 5
    assert broken.store.replies("main") == whole.store.replies("main")


@pytest.mark.parametrize(
    "where", [("alpha", "join", 0), ("beta", "train", 1), ("gamma", "evaluate", 3)]
)
def test_a_run_that_died_at_its_edges_is_resumed_too(
    new_world: Callable[..., World], where: tuple[str, str, int]
) -> None:
    whole, broken = new_world(), new_world()
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        broken.run(Faulty({where: dies}))
    broken.run()
    assert final(broken) == final(whole)
    assert broken.store.histograms("main") == whole.store.histograms("main")


def test_a_hospital_that_failed_after_its_reserve_pays_twice_and_gives_the_same_weights(
    new_world: Callable[..., World],
) -> None:
    tables = {"rounds": {"quorum": 3}}
    whole, broken = new_world(**tables), new_world(**tables)
    whole.run()
    patients = broken.sites / "beta" / "patients.csv"
    kept = patients.rename(broken.folder / "elsewhere.csv")
    with pytest.raises(RunError, match="beta refused: the site could not compute"):
        broken.run()
    kept.rename(patients)
    broken.run()
    assert final(broken) == final(whole)
    assert broken.charged("beta")[:2] == [("train", 1, "reserved"), ("train", 1, "committed")]
    assert broken.charged("alpha") == whole.charged("alpha")


def test_a_finished_run_asked_again_computes_nothing(world: World) -> None:
    first = world.run()
    before = {name: world.charged(name) for name in DECLARED}
    relay = Faulty()
    again = world.run(relay)
    assert {kind for _, kind, _ in relay.asked} == {"join", "evaluate"}
    assert again.round == first.round
    assert all(torch.equal(again.params[k], v) for k, v in first.params.items())
    assert {name: world.charged(name) for name in DECLARED} == before


def test_a_run_does_not_go_on_from_another_studys_checkpoint(
    new_world: Callable[..., World],
) -> None:
    world, other = new_world(), new_world(learner={"learning_rate": 0.1})
    world.run()
    with pytest.raises(RunError, match="belongs to study"):
        other.run(store=world.store, run_dir=world.run_dir)


def test_the_initial_weights_are_made_once(world: World) -> None:
    with pytest.raises(KeyboardInterrupt):
        world.run(Faulty({("beta", "train", 1): dies}))
    path = at_round(world.federation().folder, 0)
    assert all(torch.equal(load_state(path).params[k], v) for k, v in world.start().items())
    run(world.federation(), lambda: pytest.fail("the initial weights were made again"))
