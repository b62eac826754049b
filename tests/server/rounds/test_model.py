"""Which weights a run sends, receives, judges and hands on: averages, and a frozen body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

import client.agent
import client.app
from client.desk.received import load
from common.codec import decode
from common.fast_weights import MAP
from common.learners import learner_for
from common.learners.types import Learner
from common.params import Params
from common.wire import unpack
from server.rounds.checkpoint import at_round, latest, load_state
from server.rounds.delivery import deliver
from tests.federated_world import NODES, Faulty, World, dies

HEAD = {"body.3.weight", "body.3.bias"}
FROZEN = {"model": {"name": "mlp", "hidden": [5], "frozen": "body"}}


class Watching:
    """The relay, which notes what was sent to one hospital and what it sent back."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, int], Params] = {}
        self.back: dict[tuple[str, int], Params] = {}

    def __call__(self, message: Message, context: Context) -> Message:
        asked = unpack(message.content)
        reply = client.app.app(message, context)
        if NODES[context.node_id] == "alpha" and asked.payload:
            key = (asked.header["kind"], asked.header["round"])
            self.sent[key] = decode(asked.payload)
            answer = unpack(reply.content)
            self.back[key] = decode(answer.payload) if answer.payload else {}
        return reply


def same(one: Params, other: Params) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def kept(world: World, number: int) -> Params:
    return load_state(at_round(world.federation().folder, number)).params


@pytest.mark.parametrize("server", [{"average": "tail"}, {"average": "ema", "optimizer": "adam"}])
def test_the_mean_is_judged_and_delivered_and_the_last_weights_are_trained_on(
    new_world: Callable[..., World], server: dict[str, Any]
) -> None:
    """Fault it is for: a mean that is kept and that nobody gets, or that rounds start from."""
    world = new_world(rounds={"count": 4}, server=server)
    relay = Watching()
    state = world.run(relay)
    assert not same(state.model, state.params)
    if server["average"] == "tail":
        expected = {k: (kept(world, 3)[k] + kept(world, 4)[k]) / 2 for k in state.params}
        assert all(torch.allclose(state.model[k], v, atol=1e-6) for k, v in expected.items())
    for number in (2, 3, 4):
        assert same(relay.sent["train", number], kept(world, number - 1))
    assert same(relay.sent["evaluate", 4], state.model)
    deliver(world.federation(relay))
    assert same(relay.sent["deliver", 4], state.model)


@pytest.mark.parametrize("average", ["tail", "ema"])
def test_a_run_that_died_ends_in_the_same_mean_bit_for_bit(
    new_world: Callable[..., World], average: str
) -> None:
    # Break it once: begin the mean anew where the run is resumed.
    tables: dict[str, Any] = {"rounds": {"count": 4}, "server": {"average": average}}
    whole, broken = new_world(**tables), new_world(**tables)
    expected = whole.run()
    with pytest.raises(KeyboardInterrupt):
        broken.run(Faulty({("beta", "train", 4): dies}))
    found = broken.run()
    assert same(found.model, expected.model)
    assert same(found.params, expected.params)


def test_a_frozen_body_comes_with_every_request_and_never_goes_back(
    new_world: Callable[..., World],
) -> None:
    """Fault it is for: a hospital whose body is another than the coordinator's initial one."""
    world, relay = new_world(**FROZEN), Watching()
    start = world.start()
    state = world.run(relay)
    for number in (1, 2, 3):
        sent = relay.sent["train", number]
        assert sent.keys() == start.keys()
        assert relay.back["train", number].keys() == HEAD
        assert all(torch.equal(sent[k], start[k]) for k in start.keys() - HEAD)
    assert all(torch.equal(state.params[k], start[k]) for k in start.keys() - HEAD)
    assert all(not torch.equal(state.params[k], start[k]) for k in HEAD)
    assert relay.sent["evaluate", 3].keys() == start.keys()


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_frozen_run_that_died_goes_on_bit_for_bit(
    new_world: Callable[..., World], optimizer: str
) -> None:
    # Moments are of the head alone, and so they lie in the checkpoint.
    tables: dict[str, Any] = {**FROZEN, "server": {"optimizer": optimizer, "average": "ema"}}
    whole, broken = new_world(**tables), new_world(**tables)
    expected = whole.run()
    with pytest.raises(KeyboardInterrupt):
        broken.run(Faulty({("beta", "train", 3): dies}))
    newest = latest(broken.federation().folder)
    assert newest is not None
    assert load_state(newest).moments["first"].keys() == HEAD
    found = broken.run()
    assert same(found.params, expected.params)
    assert same(found.model, expected.model)


def test_a_learners_map_comes_and_leaves_with_the_weights_and_the_model_can_be_read(
    new_world: Callable[..., World],
) -> None:
    """Fault it is for: a map that stays behind, or a delivered model that no hospital can read."""
    learner = {"name": "metanet", "metanet": {"hidden": 3}}
    world, relay = new_world(learner=learner, model={"name": "mlp", "hidden": [5]}), Watching()
    start, state = world.start(), world.run(relay)
    assert set(MAP) < start.keys() == state.params.keys()
    assert all(not torch.equal(state.params[k], start[k]) for k in MAP)
    for number in (1, 2, 3):
        assert relay.sent["train", number].keys() == start.keys()
        assert relay.back["train", number].keys() == start.keys()
    deliver(world.federation(relay))
    received = load(world.sites / "alpha")
    assert same(received.params, state.model)


def test_nothing_of_a_frozen_body_gets_out(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner that gave the body too would give what nobody clipped or noised: it stays."""
    world, relay = new_world(**FROZEN), Watching()
    sound = learner_for(world.plan)

    def adapt(model: Any, theta: Params, patients: Any, source: Any) -> Params:
        delta = sound.adapt(model, theta, patients, source)
        return {**{k: torch.ones_like(v) for k, v in theta.items()}, **delta}

    broken = Learner("broken", sound.init, adapt, sound.apply)
    monkeypatch.setattr(client.agent, "learner_for", lambda plan: broken)
    world.run(relay)
    assert {frozenset(p) for (kind, _), p in relay.back.items() if kind == "train"} == {
        frozenset(HEAD)
    }
