"""Asking hospitals: who answered, refused, failed or is silent, each under its own id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict

from common.wire import Envelope, pack, unpack
from server.rounds.exchange import POLL_S, Answer, ask
from simulations.grid import InProcessGrid

Client = Callable[[Message, Context], Message]
OK = Envelope({"status": "ok", "site": "alpha"}, b"delta")


class Clock:
    """A clock that moves only when somebody waits."""

    def __init__(self) -> None:
        self.now, self.waits = 1000.0, 0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.waits += 1


class SlowGrid(InProcessGrid):
    """Hands out a node's reply only after it was asked for it a number of times; never for None."""

    def __init__(self, client: Client, *, delays: dict[int, int | None]) -> None:
        super().__init__(client, nodes={n: {} for n in delays}, run_config={})
        self._left = dict(delays)
        self._nodes: dict[str, int] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        ids = super().push_messages(messages)
        self._nodes |= dict(zip(ids, [m.metadata.dst_node_id for m in messages], strict=False))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ready = []
        for i in message_ids:
            left = self._left[self._nodes[i]]
            if left == 0:
                ready.append(i)
            elif left is not None:
                self._left[self._nodes[i]] = left - 1
        return super().pull_messages(ready)


def answering(envelope: Envelope = OK) -> Client:
    return lambda message, context: Message(pack(envelope), reply_to=message)


def requests(*nodes: int, kind: str = "train") -> dict[int, Envelope]:
    return {n: Envelope({"kind": kind, "round": 3, "to": n}) for n in nodes}


def exchange(
    client: Client, delays: dict[int, int | None], *, deadline_s: float = 10.0
) -> tuple[dict[int, Answer], Clock]:
    clock = Clock()
    grid = SlowGrid(client, delays=delays)
    wanted = requests(*delays)
    return ask(grid, wanted, deadline_s=deadline_s, clock=clock, wait=clock.wait), clock


def one(client: Client) -> Answer:
    answers, _ = exchange(client, {4: 0})
    return answers[4]


def test_each_node_gets_its_own_request_and_its_answer_comes_back_under_its_id() -> None:
    def client(message: Message, context: Context) -> Message:
        to = unpack(message.content).header["to"]
        assert (context.node_id, message.metadata.group_id) == (to, "3")
        return Message(pack(Envelope({"status": "ok", "from": to})), reply_to=message)

    answers, clock = exchange(client, {9: 0, 2: 0, 5: 0})
    assert {n: a.envelope.header["from"] for n, a in answers.items() if a.envelope} == {
        9: 9,
        2: 2,
        5: 5,
    }
    assert clock.waits == 0


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("join", "query"), ("train", "train"), ("evaluate", "evaluate"), ("deliver", "query")],
)
def test_the_kind_of_request_is_the_kind_of_message(kind: str, sent: str) -> None:
    seen = []

    def client(message: Message, context: Context) -> Message:
        seen.append(message.metadata.message_type)
        return Message(pack(OK), reply_to=message)

    grid = InProcessGrid(client, nodes={1: {}}, run_config={})
    ask(grid, requests(1, kind=kind), deadline_s=1)
    assert seen == [sent]


def test_a_slow_answer_is_waited_for() -> None:
    answers, clock = exchange(answering(), {1: 0, 2: 3})
    assert {n: a.status for n, a in answers.items()} == {1: "ok", 2: "ok"}
    assert clock.waits == 3


def test_a_silent_node_is_silent_after_the_deadline_and_not_before() -> None:
    answers, clock = exchange(answering(), {1: 0, 2: None, 3: 1}, deadline_s=2.0)
    assert {n: a.status for n, a in answers.items()} == {1: "ok", 2: "silent", 3: "ok"}
    assert answers[2].reason == "no answer within 2 s"
    assert 2.0 <= clock.now - 1000.0 < 2.0 + 2 * POLL_S


def test_an_answer_that_is_there_at_the_deadline_counts() -> None:
    answers, clock = exchange(answering(), {1: 0}, deadline_s=1e-12)
    assert (answers[1].status, clock.waits) == ("ok", 0)


def test_a_node_that_the_grid_does_not_know_is_gone_and_the_others_are_asked() -> None:
    # Flower drops the message and says nothing.
    grid = InProcessGrid(answering(), nodes={1: {}, 2: {}}, run_config={})
    answers = ask(grid, requests(1, 77, 2), deadline_s=1)
    assert {n: a.status for n, a in answers.items()} == {1: "ok", 77: "failed", 2: "ok"}
    assert answers[77].reason == "the node is gone"


class Lossy(InProcessGrid):
    """Says as Flower's own grid does that a message was not taken."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [i if i else "" for i in super().push_messages(messages)] or [""]


def test_a_message_that_flower_did_not_take_is_not_waited_for() -> None:
    # Its own grid returns "" in place of an id. Broken once: waited for until the deadline.
    clock = Clock()
    grid = Lossy(answering(), nodes={1: {}}, run_config={})
    answers = ask(grid, requests(1, 77), deadline_s=9, clock=clock, wait=clock.wait)
    assert (answers[1].status, answers[77].reason) == ("ok", "the node is gone")
    assert clock.waits == 0


def test_an_answer_may_be_followed_by_another_request_to_the_same_node() -> None:
    asked: list[tuple[int, str]] = []

    def client(message: Message, context: Context) -> Message:
        asked.append((context.node_id, unpack(message.content).header["kind"]))
        return Message(pack(OK), reply_to=message)

    wanted = requests(1, 2) | requests(3, kind="join")

    def follow(node: int, answer: Answer) -> Envelope | None:
        return requests(3)[3] if node == 3 and (3, "train") not in asked else None

    clock, grid = Clock(), InProcessGrid(client, nodes={1: {}, 2: {}, 3: {}}, run_config={})
    answers = ask(grid, wanted, deadline_s=9, follow=follow, clock=clock, wait=clock.wait)
    assert {n: a.status for n, a in answers.items()} == {1: "ok", 2: "ok", 3: "ok"}
    assert asked == [(1, "train"), (2, "train"), (3, "join"), (3, "train")]
    assert clock.waits == 0


def test_a_followed_request_that_is_not_answered_is_silent_and_not_the_answer_before() -> None:
    clock = Clock()
    grid = SlowGrid(answering(), delays={3: 0})

    def follow(node: int, answer: Answer) -> Envelope | None:
        grid._left[3] = None
        return requests(3)[3] if answer.status == "ok" else None

    wanted = requests(3, kind="join")
    answers = ask(grid, wanted, deadline_s=2, follow=follow, clock=clock, wait=clock.wait)
    assert answers[3] == Answer("silent", "no answer within 2 s")


def test_a_join_may_have_less_time_than_the_others() -> None:
    clock = Clock()
    grid = SlowGrid(answering(), delays={1: 60, 2: None})
    wanted = requests(1) | requests(2, kind="join")
    answers = ask(grid, wanted, deadline_s=9, join_s=1, clock=clock, wait=clock.wait)
    assert (answers[1].status, answers[2].reason) == ("ok", "no answer within 1 s")
    assert clock.waits == 60


def test_nobody_to_ask_is_no_wait() -> None:
    clock = Clock()
    grid = InProcessGrid(answering(), nodes={}, run_config={})
    assert ask(grid, {}, deadline_s=1, clock=clock, wait=clock.wait) == {}
    assert clock.waits == 0


def test_an_error_of_flowers_own_is_the_failure_of_the_node_that_was_asked() -> None:
    # Flower gives such replies a source of 1. Break it once: take the node from src_node_id.
    def client(message: Message, context: Context) -> Message:
        if context.node_id != 8:
            return Message(pack(OK), reply_to=message)
        text = "\x1b[31mTraceback\n  line\nConnectionError: lost\x1b[0m\n"
        reply = Message(Error(code=3, reason=text), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = 1
        assert reply.metadata.src_node_id == 1
        return reply

    answers, _ = exchange(client, {1: 0, 8: 0})
    assert answers[1].status == "ok"
    assert answers[8] == Answer("failed", "error 3: ConnectionError: lost")


@pytest.mark.parametrize("reason", ["", " \n "])
def test_an_error_without_words_is_still_a_failure(reason: str) -> None:
    failing = one(lambda m, c: Message(Error(code=0, reason=reason), reply_to=m))
    assert failing == Answer("failed", "error 0: no reason")


def test_an_exception_in_a_client_is_that_nodes_failure() -> None:
    def client(message: Message, context: Context) -> Message:
        raise ValueError("the relay is broken")

    answer = one(client)
    assert answer.status == "failed"
    assert "the relay is broken" in answer.reason


def test_a_refusal_keeps_its_reason() -> None:
    refusal = Envelope({"status": "refused", "reason": "privacy budget would be exceeded"})
    assert one(answering(refusal)) == Answer("refused", refusal.header["reason"], refusal)


@pytest.mark.parametrize("header", [{}, {"status": None}, {"status": ["ok"]}, {"status": "fine"}])
def test_only_what_says_ok_is_ok(header: dict[str, Any]) -> None:
    assert one(answering(Envelope(header))).status == "refused"


def records(text: str) -> RecordDict:
    payload = Array(dtype="uint8", shape=(0,), stype="grandrounds.payload", data=b"")
    return RecordDict(
        {
            "header": ConfigRecord({"json": text}),
            "payload": ArrayRecord({"payload": payload}),
        }
    )


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        records("not json"),
        records("[]"),
        records('"text"'),
        records('{"status": "ok"}'),
        records('{"status": "ok", "protocol": 99}'),
        records("[" * 100_000),
        records("1" * 5000),
    ],
    ids=["empty", "text", "list", "string", "no-protocol", "protocol", "deep", "long"],
)
def test_an_answer_that_cannot_be_read_is_that_nodes_failure(content: RecordDict) -> None:
    # A hostile hospital must not be able to end the run.
    answer = one(lambda m, c: Message(content, reply_to=m))
    assert answer.status == "failed"
    assert answer.reason
    assert answer.envelope is None


def test_a_hospitals_words_are_cut_and_made_storable() -> None:
    answer = one(answering(Envelope({"status": "refused", "reason": "\ud800" + "x" * 10_000})))
    assert answer.reason == "?" + "x" * 299
