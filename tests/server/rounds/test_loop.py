"""The round loop over real hospitals in this process: quorum, deadline, retries, and resuming."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

import client.app
import server.rounds.loop
from common.codec import decode
from common.errors import RunError
from common.learners import learner_for
from common.learners.types import State
from common.params import Params
from common.wire import unpack
from server.rounds.checkpoint import at_round, latest, load_state, save_state
from server.rounds.loop import run, train
from server.rounds.membership import join
from tests.federated_world import (
    DECLARED,
    NODES,
    FakeTime,
    Fault,
    Faulty,
    World,
    breaks,
    dies,
    dies_after_answering,
)

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
    # beta's patients cannot be read, which is a fact about patients: it says that it has paused.
    (world.sites / "beta" / "patients.csv").unlink()
    world.run()
    status, reason = world.statuses("train", 1)["beta"]
    assert (status, reason) == ("refused", "the site has paused")


def test_a_silent_hospital_is_missing_from_the_mean_and_named(
    new_world: Callable[..., World],
) -> None:
    # A deadline of a nanosecond: what is there when first asked for counts, and nobody sleeps.
    world = new_world(rounds={"deadline_s": 1e-9})
    federation = world.federation()
    roster, state = join(federation), State(world.start())
    federation = world.federation(deaf=frozenset({10}))
    contributions = train(federation, roster, state)
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


class Flaky:
    """A hospital that breaks in its first answers of a round."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, message: Message, context: Context) -> Message:
        self.left -= 1
        return (breaks if self.left >= 0 else client.app.app)(message, context)


def test_a_round_below_the_quorum_asks_those_who_are_missing_again_after_a_pause(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    # beta breaks twice: pauses of 15 s and 30 s, and alpha and gamma are asked once.
    tables = {"rounds": {"quorum": 3, "retries": 2}}
    whole, broken = new_world(**tables), new_world(**tables)
    whole.run()
    fake = FakeTime()
    monkeypatch.setattr(server.rounds.loop, "time", fake)
    relay = Faulty({("beta", "train", 2): Flaky(2)})
    broken.run(relay)
    asked = [s for s, kind, n in relay.asked if (kind, n) == ("train", 2)]
    assert sorted(asked) == ["alpha", "beta", "beta", "beta", "gamma"]
    assert fake.now == 15 + 30
    assert final(broken) == final(whole)
    assert broken.store.missed("main") == []


def test_retries_end_and_the_run_can_be_resumed(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(rounds={"quorum": 3, "retries": 2, "deadline_s": 20.0})
    fake = FakeTime()
    monkeypatch.setattr(server.rounds.loop, "time", fake)
    relay = Faulty({("beta", "train", 2): Flaky(3)})
    with pytest.raises(RunError, match="round 2: 2 of 3 hospitals answered") as caught:
        world.run(relay)
    assert "resume the run" in caught.value.remedy
    assert fake.now == 15 + 20  # a pause is no longer than the deadline
    assert world.run(relay).round == 3


def test_without_retries_nobody_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def waits() -> None:
        pytest.fail("somebody waited")

    monkeypatch.setattr(server.rounds.loop, "time", FakeTime(waits))
    relay = Faulty({("alpha", "train", 1): breaks, ("beta", "train", 1): breaks})
    with pytest.raises(RunError, match="1 of 3"):
        world.run(relay)


def test_what_the_aggregation_bears_is_logged_and_on_record_from_the_start(
    new_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="grandrounds.server")
    world = new_world(server={"aggregation": "median", "norm_bound": 2.0})
    world.store.start("main", digest=world.plan.digest, code="")
    with pytest.raises(KeyboardInterrupt):
        world.run(Faulty({("beta", "train", 1): dies}))
    job = world.store.job("main")
    assert job is not None
    assert job["remark"] == (
        "aggregation median, norms bounded by 2: bears 1 lying of 3 hospitals "
        "(at most: mean 0, median 1, trimmed_mean 1, krum 0)"
    )
    assert caplog.messages[0] == f"main: {job['remark']}"


# When the coordinator dies


def final(world: World) -> dict[str, dict[str, bytes]]:
    """Return the bits of the final weights and moments (the order of a file's header varies)."""
    folder, count = world.federation().folder, world.plan.study.rounds.count
    state = load_state(at_round(folder, count), digest=world.plan.digest)
    groups = {"params": state.params, **state.moments}
    return {g: {k: v.numpy().tobytes() for k, v in p.items()} for g, p in groups.items()}


@pytest.mark.slow
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
    with pytest.raises(RunError, match="beta refused: the site has paused"):
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


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_coordinator_killed_between_the_answers_and_the_checkpoint_goes_on_from_there(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    # The round's answers are in the store, its weights are not: the same request gets the same
    # answers, which the check of receipts must not take for a ledger that went back.
    tables = {"server": {"optimizer": optimizer}}
    whole, broken = new_world(**tables), new_world(**tables)
    whole.run()

    def killed(state: State, *args: Any, **options: Any) -> None:
        if state.round == 2:
            raise KeyboardInterrupt
        save_state(state, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(server.rounds.loop, "save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            broken.run()
    assert broken.statuses("train", 2) == dict.fromkeys(DECLARED, ("ok", ""))
    relay = Faulty()
    broken.run(relay)
    assert {n for _, kind, n in relay.asked if kind == "train"} == {2, 3}
    assert final(broken) == final(whole)
    assert broken.store.missed("main") == []
    for name in DECLARED:
        assert broken.charged(name) == whole.charged(name)
