"""Asking every hospital the same and collecting what comes back, each failure with its name."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common.errors import GrandroundsError
from common.wire import Envelope, pack, unpack

POLL_S = 0.05  # Flower's own loop waits 3 s

_TYPES = {"join": MessageType.QUERY, "train": MessageType.TRAIN, "evaluate": MessageType.EVALUATE}
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Answer:
    """What one node made of a request.

    Attributes:
        status: 'ok', 'refused' (the site said no), 'failed' (no readable answer came) or 'silent'
            (nothing came before the deadline).
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


_UNKNOWN = Answer("failed", "the node is gone")


def ask(
    grid: Grid,
    requests: Mapping[int, Envelope],
    *,
    deadline_s: float,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> dict[int, Answer]:
    """Send each node its request and wait until all have answered or the deadline passes.

    Args:
        grid: Where the nodes are.
        requests: Node id -> request.
        deadline_s: How long to wait.
        clock: Monotonic seconds; a test passes its own.
        wait: Sleeps for some seconds; a test passes its own.

    Returns:
        Node id -> answer, one for every request.
    """
    # Flower gives error replies of its own a source of 1: only the id they reply to tells the node.
    waiting = {i: node for node, asked in requests.items() for i in _push(grid, node, asked)}
    answers = {node: _UNKNOWN for node in requests if node not in waiting.values()}
    end = clock() + deadline_s
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            answers[waiting.pop(reply.metadata.reply_to_message_id)] = _read(reply)
        if waiting:
            if clock() >= end:
                break
            wait(POLL_S)
    silent = Answer("silent", f"no answer within {deadline_s:g} s")
    return {node: answers.get(node, silent) for node in requests}


def _push(grid: Grid, node: int, asked: Envelope) -> list[str]:
    """Send one request; the list is empty where Flower does not know the node (it says nothing)."""
    message = Message(
        content=pack(asked),
        dst_node_id=node,
        message_type=_TYPES[asked.header["kind"]],
        group_id=str(asked.header["round"]),
    )
    return list(grid.push_messages([message]))


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
