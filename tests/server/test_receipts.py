"""Receipts on their way round: kept by the coordinator, shown to the hospital that gave them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import torch

from client.agent import close_agents
from client.desk.administration import OwnDesk, perform_locally
from client.desk.approval import approve
from client.ledger import Ledger
from client.policy import Reason
from client.site import load_site
from common.wire import unpack
from server.store import Store
from tests.federated_world import NODES, Faulty, World, dies


@pytest.fixture
def keyed(new_world: Callable[..., World]) -> World:
    """A world whose hospitals have secrets and approvals, as real ones."""
    world = new_world()
    for name in NODES.values():
        folder = world.sites / name
        (folder / "keys").mkdir()
        (folder / "keys" / "secret").write_bytes(name.encode().ljust(32))
        with closing(Ledger(folder / "ledger.sqlite", durable=False)) as ledger:
            approve(load_site(folder), ledger, world.plan, runs=1)
    return world


class Watching(Faulty):
    """Also keeps what each request shows of a receipt."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.shown: dict[tuple[str, str, int], tuple[int, str | None]] = {}

    def __call__(self, message: Any, context: Any) -> Any:
        header = unpack(message.content).header
        if header["kind"] != "join":
            key = (NODES[context.node_id], header["kind"], header["round"])
            self.shown[key] = (header["seen"], header.get("tag"))
        return super().__call__(message, context)


def start_again(world: World) -> None:
    """Another process of the coordinator's, and of each hospital's."""
    world.store.close()
    world.store = Store(world.run_dir)
    close_agents()


def refusals(world: World, name: str) -> list[str]:
    with closing(Ledger(world.sites / name / "ledger.sqlite", durable=False)) as ledger:
        return [e.body["reason"] for e in ledger.entries("refusal")]


def test_a_coordinator_that_was_resumed_shows_the_receipts_it_had(keyed: World) -> None:
    # Break it once: keep the receipts in memory, or show the tag of the newest answer of anybody.
    with pytest.raises(KeyboardInterrupt):
        keyed.run(Faulty({("gamma", "train", 3): dies}))
    had = {(r["site"], r["reserves"]): r["tag"] for r in keyed.store.replies("main") if r["tag"]}
    assert len(set(had.values())) == 6
    start_again(keyed)
    watching = Watching()
    assert keyed.run(watching).round == 3
    for name in NODES.values():
        seen, tag = watching.shown[name, "train", 3]
        assert (seen, tag) == (2, had[name, 2])
        assert refusals(keyed, name) == []
    assert keyed.store.missed("main") == []


def test_a_hospital_put_back_meets_its_own_receipt_and_the_run_goes_on(keyed: World) -> None:
    ledger, kept = keyed.sites / "beta" / "ledger.sqlite", keyed.folder / "kept.sqlite"

    def stop_before(number: int) -> None:
        with pytest.raises(KeyboardInterrupt):
            keyed.run(Faulty({("alpha", "train", number): dies}))
        start_again(keyed)

    stop_before(2)
    shutil.copy(ledger, kept)
    stop_before(3)
    shutil.copy(kept, ledger)
    for path in ledger.parent.glob("ledger.sqlite-*"):
        path.unlink()
    assert keyed.run().round == 3
    assert keyed.statuses("train", 3)["beta"] == ("refused", str(Reason.LEDGER_BEHIND))
    with closing(Ledger(ledger, durable=False)) as found:
        assert "has seen 2 releases" in (found.behind or "")
        charged = perform_locally(OwnDesk(ledger.parent, found), "reconcile", {})["charged"]
    assert [one["digest"] for one in charged] == [keyed.plan.digest]


def test_the_weights_do_not_depend_on_whether_hospitals_have_secrets(
    keyed: World, new_world: Callable[..., World]
) -> None:
    watching, simulated = Watching(), Watching()
    ours, theirs = keyed.run(watching), new_world().run(simulated)
    assert all(torch.equal(ours.params[k], theirs.params[k]) for k in ours.params)
    for key, (seen, tag) in watching.shown.items():
        assert simulated.shown[key] == (seen, None)
        assert (tag is None) == (seen == 0)
