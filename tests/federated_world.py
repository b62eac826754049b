"""Three hospitals' folders and the federation over them, with faults at will."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message

import client.app
from client.agent import close_agents
from common.learners.types import State
from common.models import initial_params
from common.params import Params
from common.plan import Plan
from common.wire import Envelope, pack, unpack
from server.rounds.federation import Federation
from server.rounds.loop import run
from server.store import Store
from simulations.grid import ClientCallable, InProcessGrid
from tests.ledger_reader import releases
from tests.small_world import hospital, roomy

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
    """Loses every message to some nodes, and may come to know others later."""

    deaf: frozenset[int] = frozenset()

    def vanish(self, node: int) -> Context:
        """Forget a node, as Flower does when it is silent for long; return it."""
        return self._contexts.pop(node)

    def appear(self, node: int, context: Context) -> None:
        """Come to know a node."""
        self._contexts[node] = context

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
        lines = releases(self.sites / name / "ledger.sqlite")
        return [(line.phase, line.round, line.state) for line in lines if line.phase != "join"]

    def close(self) -> None:
        self.store.close()
        close_agents()


class FakeTime:
    """The time module, on a clock that moves only by sleeping."""

    def __init__(self, on_sleep: Callable[[], None] = lambda: None) -> None:
        self.now, self.on_sleep = 0.0, on_sleep

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


def says(envelope: Envelope) -> Fault:
    """Answer so; the request's own study, run and round are named where the header does not."""

    def answer(message: Message, context: Context) -> Message:
        asked = unpack(message.content).header
        names = {name: asked[name] for name in ("digest", "run", "round")}
        reply = Envelope({**names, **envelope.header}, envelope.payload)
        return Message(pack(reply), reply_to=message)

    return answer


def tampers(change: Callable[[Envelope], Envelope]) -> Fault:
    """Let the hospital answer, and change what it says."""

    def answer(message: Message, context: Context) -> Message:
        reply = client.app.app(message, context)
        return Message(pack(change(unpack(reply.content))), reply_to=message)

    return answer


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
