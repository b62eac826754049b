"""Weights of each hospital's own, through the loop: sent, judged, delivered, and resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

import client.app
from common.codec import decode
from common.learners import learner_for
from common.params import Params, flatten
from common.wire import unpack
from server.rounds.checkpoint import at_round, latest, load_state
from server.rounds.delivery import deliver
from server.rounds.loop import run
from tests.federated_world import DECLARED, NODES, Faulty, World, dies

OWN: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [3]},
    "learner": {"name": "hypernetwork", "hypernetwork": {"hidden": [6], "rate": 4.0}},
}


class Watching:
    """The relay, which notes what each hospital was sent."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, str, int], Params] = {}

    def __call__(self, message: Message, context: Context) -> Message:
        asked = unpack(message.content)
        if asked.payload:
            key = (NODES[context.node_id], asked.header["kind"], asked.header["round"])
            self.sent[key] = decode(asked.payload)
        return client.app.app(message, context)


def same(one: Params, other: Params) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_each_hospital_is_sent_judged_by_and_handed_its_own_weights(
    new_world: Callable[..., World],
) -> None:
    """Fault it is for: one payload for all, in any of the three phases."""
    world, relay = new_world(**OWN), Watching()
    state, learner = world.run(relay), learner_for(world.plan)
    deliver(world.federation(relay))
    for number in (1, 2, 3):
        before = load_state(at_round(world.federation().folder, number - 1))
        for site in DECLARED:
            assert same(relay.sent[site, "train", number], learner.start(before, site))
    for site in DECLARED:
        own = learner.result(state, site)
        assert same(relay.sent[site, "evaluate", 3], own)
        assert same(relay.sent[site, "deliver", 3], own)
        assert not same(own, state.model)
    assert same(relay.sent["alpha", "train", 1], relay.sent["beta", "train", 1])
    assert not same(relay.sent["alpha", "train", 2], relay.sent["beta", "train", 2])


@pytest.mark.parametrize("server", [{}, {"optimizer": "adam", "learning_rate": 0.1}])
def test_a_run_that_died_goes_on_bit_for_bit(
    new_world: Callable[..., World], server: dict[str, Any]
) -> None:
    # Break it once: leave the server's own weights, or their moments, out of the checkpoint.
    whole, broken = (new_world(**OWN, server=server) for _ in range(2))
    expected = whole.run()
    with pytest.raises(KeyboardInterrupt):
        broken.run(Faulty({("beta", "train", 3): dies}))
    newest = latest(broken.federation().folder)
    assert newest is not None
    assert {f"embedding.{s}" for s in DECLARED} <= load_state(newest).own.keys()
    found = broken.run()
    assert same(found.own, expected.own)
    assert list(found.own) == list(expected.own)
    assert same(found.params, expected.params)
    assert all(same(found.moments[k], v) for k, v in expected.moments.items())


def test_a_hospital_that_joins_late_starts_from_the_mean_of_the_others(
    new_world: Callable[..., World],
) -> None:
    world, relay, holder = new_world(**OWN), Watching(), {}

    def appears(message: Message, context: Context) -> Message:
        holder["grid"].appear(20, holder["gamma"])
        return relay(message, context)

    faulty = Faulty({("alpha", "train", 2): appears})

    def watched(message: Message, context: Context) -> Message:
        name = (NODES[context.node_id], "train", 2)
        asked = unpack(message.content).header
        is_there = (asked["kind"], asked["round"]) == ("train", 2) and name == ("alpha", "train", 2)
        return faulty(message, context) if is_there else relay(message, context)

    federation = world.federation(watched, expected=2)
    holder |= {"grid": federation.grid, "gamma": federation.grid.vanish(20)}
    state, learner = run(federation, world.start), learner_for(world.plan)
    first = min(number for site, kind, number in relay.sent if (site, kind) == ("gamma", "train"))
    before = load_state(at_round(federation.folder, first - 1))
    assert first > 1
    assert same(relay.sent["gamma", "train", first], before.params)
    assert "embedding.gamma" not in before.own
    assert "embedding.gamma" in state.own
    assert not same(learner.result(state, "gamma"), state.model)


def test_a_bound_on_norms_holds_for_changes_of_weights_of_ones_own(
    new_world: Callable[..., World],
) -> None:
    moved = []
    for server in ({}, {"norm_bound": 1e-3}):
        world = new_world(**OWN, server=server)
        common = world.run().own["out.bias"]
        moved.append(float((common - flatten(world.start())).norm()))
    assert moved[1] < 4e-3 < moved[0]
