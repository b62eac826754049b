"""Asking the hospitals and collecting what comes back, each failure with its name."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common.codec import encode
from common.errors import GrandroundsError
from common.params import Params
from common.wire import Envelope, pack, unpack

POLL_S = 0.05  # Flower's own loop waits 3 s

_TYPES = {
    "join": MessageType.QUERY,
    "train": MessageType.TRAIN,
    "evaluate": MessageType.EVALUATE,
    "deliver": MessageType.QUERY,
}
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Answer:
    """What one node made of a request.

    Attributes:
        status: 'ok', 'refused' (the site said no), 'failed' (no readable answer came), 'silent'
            (nothing came before the deadline) or, later, 'dropped' (it came and does not count).
        reason: Why, where it is not ok.
    """

    status: str
    reason: str = ""
    envelope: Envelope | None = None


def failed(error: Exception) -> Answer:
    """Return the answer that could not be read, whatever a hospital put into it."""
    words = error.message if isinstance(error, GrandroundsError) else f"unreadable: {error!r}"
    return Answer("failed", plain(words))


def plain(text: str) -> str:
    """Return a hospital's words in a form that can be stored: short, and valid Unicode.

    >>> plain("disk \\ud800 full")
    'disk ? full'
    """
    return text.encode("utf-8", "replace").decode()[:_LONGEST_REASON]


def payloads(sent: Callable[[str], Params]) -> Callable[[str], bytes]:
    """Return what gives each hospital's weights as bytes; those that several have are made once.

    Args:
        sent: A hospital's name -> its weights.
    """
    weights, made = cache(sent), {}

    def payload(name: str) -> bytes:
        params = weights(name)  # kept, so that its id stays its own
        if id(params) not in made:
            made[id(params)] = encode(params)
        return made[id(params)]

    return payload


GONE = Answer("failed", "the node is gone")

Follow = Callable[[int, Answer], Envelope | None]


@dataclass(frozen=True)
class _Sent:
    """A message on its way: to whom, and how long it is waited for, from the start."""

    node: int
    limit_s: float


def ask(
    grid: Grid,
    requests: Mapping[int, Envelope],
    *,
    deadline_s: float,
    join_s: float | None = None,
    follow: Follow = lambda node, answer: None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> dict[int, Answer]:
    """Send each node its request and wait until all have answered or the deadline passes.

    Args:
        grid: Where the nodes are.
        requests: Node id -> request.
        deadline_s: How long to wait.
        join_s: How long to wait for an answer to a join, where that is less.
        follow: Gets each answer as it comes, and may return the next request to that node.
        clock: Monotonic seconds; a test passes its own.
        wait: Sleeps for some seconds; a test passes its own.

    Returns:
        Node id -> its last answer, one for every request.
    """
    limits = {"join": deadline_s if join_s is None else min(join_s, deadline_s)}
    # Flower gives error replies of its own a source of 1: only the id they reply to tells the node.
    waiting: dict[str, _Sent] = {}
    answers: dict[int, Answer] = {}
    to_send, start = dict(requests), clock()
    while to_send or waiting:
        for node, asked in to_send.items():
            limit_s = limits.get(asked.header["kind"], deadline_s)
            waiting |= dict.fromkeys(_push(grid, node, asked), _Sent(node, limit_s))
            answers[node] = GONE  # until it answers, or as long as it is waited for
        to_send = {}
        for reply in grid.pull_messages(list(waiting)) if waiting else ():
            sent = waiting.pop(reply.metadata.reply_to_message_id, None)
            if sent is None:
                continue  # an answer to nothing that was asked
            answers[sent.node] = _read(reply)
            following = follow(sent.node, answers[sent.node])
            to_send |= {sent.node: following} if following is not None else {}
        if waiting and not to_send:
            waiting = _still_waited_for(waiting, answers, elapsed_s=clock() - start)
            if waiting:
                wait(POLL_S)
    return answers


def _still_waited_for(
    waiting: dict[str, _Sent], answers: dict[int, Answer], *, elapsed_s: float
) -> dict[str, _Sent]:
    """Return those whose time is not up; the others are silent."""
    for sent in waiting.values():
        if elapsed_s >= sent.limit_s:
            answers[sent.node] = Answer("silent", f"no answer within {sent.limit_s:g} s")
    return {i: sent for i, sent in waiting.items() if elapsed_s < sent.limit_s}


def _push(grid: Grid, node: int, asked: Envelope) -> list[str]:
    """Send one request; the list is empty where Flower does not know the node (it says nothing)."""
    message = Message(
        content=pack(asked),
        dst_node_id=node,
        message_type=_TYPES[asked.header["kind"]],
        group_id=str(asked.header["round"]),
    )
    return [i for i in grid.push_messages([message]) if i]  # Flower's own grid says "" or None


def _read(reply: Message) -> Answer:
    if reply.has_error():
        # Flower's reason is a whole traceback in colour; its last line is what happened.
        lines = _ANSI.sub("", reply.error.reason or "").strip().splitlines()
        what = plain(lines[-1]) if lines else "no reason"
        return Answer("failed", f"error {reply.error.code}: {what}")
    try:
        envelope = unpack(reply.content)
    except Exception as error:  # a hostile answer is that hospital's failure, never the run's
        return failed(error)
    if envelope.header.get("status") == "ok":
        return Answer("ok", "", envelope)
    return Answer("refused", plain(str(envelope.header.get("reason", "no reason"))), envelope)
