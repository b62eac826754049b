"""Handing over the finished model: to whom, what, and what is on record of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import Context, Message

from common.codec import decode
from common.errors import RunError
from common.wire import Envelope, pack, unpack
from server.rounds.delivery import deliver
from server.store import Reply
from tests.federated_world import DECLARED, NODES, DeafGrid, Faulty, World, breaks, dies, says


class Receiving:
    """The relay of sites that keep what is delivered."""

    def __init__(self) -> None:
        self.got: dict[str, Envelope] = {}

    def __call__(self, message: Message, context: Context) -> Message:
        request = unpack(message.content)
        assert message.metadata.message_type == "query"
        self.got[NODES[context.node_id]] = request
        names = {k: request.header[k] for k in ("digest", "run", "round")}
        return Message(pack(Envelope({"status": "ok", **names})), reply_to=message)


def finished(world: World) -> World:
    world.run()
    return world


def rows(world: World) -> dict[str, tuple[str, str]]:
    return world.statuses("deliver", world.plan.study.rounds.count)


def test_every_member_gets_the_final_weights_and_a_card(world: World) -> None:
    state, receiving = world.run(), Receiving()
    replies = deliver(world.federation(receiving))
    assert replies == [Reply(name, "ok") for name in sorted(DECLARED)]
    assert rows(world) == dict.fromkeys(DECLARED, ("ok", ""))
    assert set(receiving.got) == set(DECLARED)
    for request in receiving.got.values():
        header = dict(request.header)
        card = header.pop("card")
        assert header == {
            "kind": "deliver",
            "digest": world.plan.digest,
            "run": "main",
            "round": 3,
        }
        assert world.plan.digest in card
        found = decode(request.payload)
        assert found.keys() == state.params.keys()
        assert all(torch.equal(found[k], v) for k, v in state.params.items())


def test_real_agents_take_it_and_again(world: World) -> None:
    world.run()
    assert {r.status for r in deliver(world.federation())} == {"ok"}
    assert {r.status for r in deliver(world.federation())} == {"ok"}


def test_the_card_is_the_runs_own_where_there_are_metrics(world: World) -> None:
    receiving = Receiving()
    finished(world)
    (world.run_dir / "metrics.json").write_text('{"title": "Hearts", "arms": {}}')
    deliver(world.federation(receiving))
    assert receiving.got["alpha"].header["card"].startswith("# Model card: Hearts")


def test_who_does_not_take_it_is_named_and_a_second_delivery_may_mend_it(world: World) -> None:
    finished(world)
    refusal = says(Envelope({"status": "refused", "reason": "the site is paused"}))
    stale = says(Envelope({"status": "ok", "run": "another"}))
    relay = Faulty({("alpha", "deliver", 3): refusal, ("beta", "deliver", 3): stale})
    federation = world.federation(relay)
    assert isinstance(federation.grid, DeafGrid)
    federation.grid.vanish(20)
    deliver(federation)
    assert rows(world) == {
        "alpha": ("refused", "the site is paused"),
        "beta": ("dropped", "stale: its run is 'another', not 'main'"),
        "gamma": ("failed", "the node is gone"),
    }
    missed = [(r["phase"], r["site"]) for r in world.store.missed("main")]
    assert missed == [("deliver", name) for name in sorted(DECLARED)]
    deliver(world.federation(Receiving()))
    assert rows(world) == dict.fromkeys(DECLARED, ("ok", ""))


def test_only_members_get_it(world: World) -> None:
    world.run(Faulty({("beta", "join", 0): breaks}))
    receiving = Receiving()
    deliver(world.federation(receiving))
    assert set(receiving.got) == {"alpha", "gamma"}


@pytest.mark.parametrize("fault", [("beta", "train", 2), ("alpha", "join", 0)])
def test_an_unfinished_run_has_nothing_to_deliver(world: World, fault: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        world.run(Faulty({fault: dies}))
    done = 1 if fault[1] == "train" else 0
    with pytest.raises(RunError, match=f"no model yet: {done} of 3 rounds") as caught:
        deliver(world.federation(Receiving()))
    assert "resume the run" in caught.value.remedy
