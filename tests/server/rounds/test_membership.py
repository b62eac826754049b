"""Who takes part: introductions that can be believed, names that stay with a node, latecomers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

import client.app
import server.rounds.collection
import server.rounds.loop
import server.rounds.membership
from common.errors import RunError
from common.learners.types import State
from common.wire import Envelope
from server.rounds.exchange import POLL_S, ask
from server.rounds.federation import enrolled_at
from server.rounds.loop import train
from server.rounds.membership import join
from tests.federated_world import (
    DECLARED,
    NODES,
    DeafGrid,
    FakeTime,
    Faulty,
    World,
    breaks,
    says,
)


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


def test_a_quorum_is_enough_and_who_is_left_out_is_asked_to_join_in_each_round(
    world: World,
) -> None:
    relay = Faulty({("beta", "join", 0): breaks})
    world.run(relay)
    assert {s for s, kind, _ in relay.asked if kind != "join"} == {"alpha", "gamma"}
    assert relay.asked.count(("beta", "join", 0)) == 1 + 3
    statuses = {m["site"]: m["status"] for m in world.store.members("main")}
    assert statuses["node 10"] == "left out: error 2: OSError: gone"
    assert statuses["alpha"] == statuses["gamma"] == "took part"


OK = {"status": "ok", "site": "beta", "declared": 60}


@pytest.mark.slow
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
    new_world: Callable[..., World], header: dict[str, Any], declared: int | None
) -> None:
    # The name of another, a size that is no count: none of it may reach the weights or end the run.
    world = new_world(rounds={"count": 1})
    relay = Faulty({("beta", "join", 0): says(Envelope({**OK, **header}))})
    assert world.run(relay).round == 1
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


def test_the_start_waits_for_the_expected_hospitals(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = world.federation()
    grid = federation.grid
    assert isinstance(grid, DeafGrid)
    late = grid.vanish(20)
    fake = FakeTime(lambda: grid.appear(20, late))
    monkeypatch.setattr(server.rounds.membership, "time", fake)
    assert [m.name for m in join(federation).members] == ["alpha", "beta", "gamma"]
    assert fake.now == POLL_S


@pytest.mark.parametrize(("expected", "waited"), [(3, True), (0, False)])
def test_the_start_waits_no_longer_than_the_deadline_or_the_quorum(
    world: World, monkeypatch: pytest.MonkeyPatch, expected: int, waited: bool
) -> None:
    federation = world.federation(expected=expected)
    assert isinstance(federation.grid, DeafGrid)
    federation.grid.vanish(20)
    fake = FakeTime()
    monkeypatch.setattr(server.rounds.membership, "time", fake)
    assert [m.name for m in join(federation).members] == ["alpha", "beta"]
    assert (fake.now >= 60.0) is waited


def test_a_refusal_does_not_reserve_the_name_of_who_joins(world: World) -> None:
    # gamma's node is asked first. Broken once: in the order of the nodes, its refusal was alpha's.
    forged = Envelope({"status": "refused", "reason": "no", "site": "alpha"})
    join(world.federation(Faulty({("gamma", "join", 0): says(forged)})))
    rows = {m["site"]: m["status"] for m in world.store.members("main")}
    assert rows == {"alpha": "took part", "beta": "took part", "node 20": "left out: no"}


def test_an_introduction_to_another_study_is_left_out(world: World) -> None:
    world.run(Faulty({("beta", "join", 0): says(Envelope({**OK, "digest": "e" * 64}))}))
    rows = {m["site"]: m["status"] for m in world.store.members("main")}
    assert rows["node 10"].startswith("left out: stale: its digest is 'eee")


# Those who come late


class Paused:
    """A hospital that refuses to join in its first answers, as a paused site does."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, message: Message, context: Context) -> Message:
        self.left -= 1
        refusal = Envelope({"status": "refused", "reason": "the site is paused", "site": "beta"})
        return (says(refusal) if self.left >= 0 else client.app.app)(message, context)


def test_a_hospital_back_from_a_pause_takes_part_from_that_round_on(world: World) -> None:
    # It refuses at the start and in round 1. Broken once: only asked at the start, it never came.
    relay = Faulty({("beta", "join", 0): Paused(2)})
    world.run(relay)
    assert [n for s, kind, n in relay.asked if (s, kind) == ("beta", "train")] == [2, 3]
    assert relay.asked.count(("beta", "join", 0)) == 3
    status = "left out: the site is paused"
    assert world.statuses("train", 1)["beta"] == ("absent", status)
    assert world.statuses("train", 2)["beta"] == ("ok", "")
    assert set(world.store.histograms("main")) == set(DECLARED)
    assert world.store.missed("main") == [
        {"round": 1, "phase": "train", "site": "beta", "status": "absent", "reason": status}
    ]
    assert {m["status"] for m in world.store.members("main")} == {"took part"}


def test_a_hospital_enrolled_in_a_run_counts_in_its_first_round_like_the_others(
    world: World,
) -> None:
    whole, late = world.federation(), world.federation(expected=2)
    state = State(world.start())
    expected = train(whole, join(whole), state)
    grid = late.grid
    assert isinstance(grid, DeafGrid)
    context = grid.vanish(10)
    roster = join(late)
    assert [m.name for m in roster.members] == ["alpha", "gamma"]
    grid.appear(10, context)
    found = train(late, roster, state)
    assert [c.declared for c in found] == [c.declared for c in expected] == [40, 60, 80]
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(v, other.delta[k]) for k, v in one.delta.items())


def test_the_rounds_before_a_hospital_came_are_told(world: World) -> None:
    holder: dict[str, Any] = {}

    def appears(message: Message, context: Context) -> Message:
        holder["grid"].appear(10, holder["beta"])
        return client.app.app(message, context)

    federation = world.federation(Faulty({("alpha", "train", 2): appears}), expected=2)
    assert isinstance(federation.grid, DeafGrid)
    holder |= {"grid": federation.grid, "beta": federation.grid.vanish(10)}
    server.rounds.loop.run(federation, world.start)
    told = [(r["round"], r["site"], r["status"]) for r in world.store.missed("main")]
    assert told == [(1, "beta", "absent"), (2, "beta", "absent")]
    assert world.statuses("train", 3)["beta"] == ("ok", "")


def test_a_silent_stranger_does_not_hold_up_the_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The members answer at once; the stranger is waited for LATE_JOIN_S and not the deadline, 60 s.
    relay = Faulty({("beta", "join", 0): breaks})
    roster = join(world.federation(relay))
    federation = world.federation(deaf=frozenset({10}))
    fake = FakeTime()
    monkeypatch.setattr(
        server.rounds.collection,
        "ask",
        lambda *a, **k: ask(*a, **k, clock=fake.monotonic, wait=fake.sleep),
    )
    assert len(train(federation, roster, State(world.start()))) == 2
    assert 0 <= fake.now - server.rounds.collection.LATE_JOIN_S < 1
    assert world.statuses("train", 1)["node 10"] == (
        "absent",
        "left out: no answer within 30 s",
    )


def test_a_member_that_vanished_is_kept_and_asked_when_it_is_back(world: World) -> None:
    relay = Faulty()
    federation = world.federation(relay)
    grid = federation.grid
    assert isinstance(grid, DeafGrid)
    roster, state = join(federation), State(world.start())
    context = grid.vanish(10)
    assert [c.declared for c in train(federation, roster, state)] == [40, 80]
    assert world.statuses("train", 1)["beta"] == ("failed", "the node is gone")
    grid.appear(10, context)
    assert len(train(federation, roster, State(state.params, round=1))) == 3
    assert relay.asked.count(("beta", "join", 0)) == 1


def test_another_node_under_a_members_name_is_refused_and_named(world: World) -> None:
    # Node 77 holds beta's folder and says so; beta itself is node 10.
    relay = Faulty()
    federation = world.federation(relay)
    grid = federation.grid
    assert isinstance(grid, DeafGrid)
    roster, state = join(federation), State(world.start())
    twin = grid.vanish(10)
    grid.appear(10, twin)
    twin_of = Context(
        run_id=twin.run_id,
        node_id=77,
        node_config=twin.node_config,
        state=twin.state,
        run_config=twin.run_config,
    )
    grid.appear(77, twin_of)
    NODES_77 = {**NODES, 77: "twin"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.federated_world.NODES", NODES_77)
        contributions = train(federation, roster, state)
    assert [c.declared for c in contributions] == [40, 60, 80]
    assert ("twin", "train", 1) not in relay.asked
    reason = "left out: its name 'beta' is that of another node, 10"
    assert world.statuses("train", 1)["node 77"] == ("absent", reason)
    rows = {m["site"]: m["status"] for m in world.store.members("main")}
    assert (rows["beta"], rows["node 77"]) == ("took part", reason)


# Who is enrolled


SITES = """
[[site]]
name = "alpha"
node = 30
[[site]]
name = "delta"
node = 10
[[site]]
name = "gamma"
"""


def test_a_name_that_was_given_to_another_node_is_refused(world: World, tmp_path: Path) -> None:
    # Node 10 says beta and is enrolled as delta; gamma's node is not known there yet, alpha fits.
    (tmp_path / "sites.toml").write_text(SITES)
    federation = world.federation(enrolled=lambda: enrolled_at(tmp_path))
    assert [m.name for m in join(federation).members] == ["alpha", "gamma"]
    rows = {m["site"]: m["status"] for m in world.store.members("main")}
    assert rows["node 10"] == "left out: its name 'beta': enrolled as 'delta'"


def test_a_node_that_is_not_enrolled_cannot_take_an_enrolled_name(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "sites.toml").write_text('[[site]]\nname = "beta"\nnode = 11\n')
    federation = world.federation(enrolled=lambda: enrolled_at(tmp_path))
    assert [m.name for m in join(federation).members] == ["alpha", "gamma"]


def test_a_folder_without_enrolments_checks_nothing(tmp_path: Path) -> None:
    assert enrolled_at(None) == enrolled_at(tmp_path) == {}
