"""The relay: it forwards one message and its answer, unchanged, and could not read a tensor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

import client.app
from common.wire import Envelope, pack, unpack
from simulations.grid import InProcessGrid

ROOT = Path(__file__).parents[2]


def test_the_relay_imports_nothing_that_reads_tensors_patients_or_the_ledger() -> None:
    code = (
        "import sys, client.app;"
        "print([m for m in ('torch', 'pandas', 'safetensors', 'opacus', 'client.agent',"
        " 'client.gate', 'client.ledger') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def relayed(message_type: str, content: RecordDict, node: dict[str, Any]) -> Message:
    grid = InProcessGrid(client.app.app, nodes={5: node}, run_config={})
    [reply] = grid.send_and_receive([Message(content, 5, message_type)])
    return reply


@pytest.mark.parametrize(
    "message_type", [MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE]
)
def test_a_message_and_its_answer_pass_unchanged(
    monkeypatch: pytest.MonkeyPatch, message_type: str
) -> None:
    request = Envelope({"kind": "any", "unknown": [1, {"é": None}]}, bytes(range(256)))
    answer = Envelope({"status": "odd", "epsilon": 0.1}, b"\x00\xff" * 9)
    seen = []

    def connect(context: Any) -> Any:
        def agent(envelope: Envelope) -> Envelope:
            seen.append((context.node_config["transport"], envelope))
            return answer

        return agent

    monkeypatch.setattr(client.app, "connect", connect)
    reply = relayed(message_type, pack(request), {"transport": "socket"})
    assert seen == [("socket", request)]
    assert unpack(reply.content) == answer


@pytest.mark.parametrize(
    ("content", "node", "named"),
    [
        (pack(Envelope({})), {"transport": "pigeon"}, "pigeon"),
        (pack(Envelope({})), {}, "site-dir"),
    ],
    ids=["transport", "folder"],
)
def test_what_cannot_be_forwarded_is_an_error_reply(
    content: RecordDict, node: dict[str, Any], named: str
) -> None:
    reply = relayed(MessageType.TRAIN, content, node)
    assert reply.has_error()
    assert named in reply.error.reason


def test_a_message_that_is_no_envelope_never_reaches_the_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def connect(context: Any) -> Any:
        return lambda envelope: pytest.fail("the agent was asked")

    monkeypatch.setattr(client.app, "connect", connect)
    reply = relayed(MessageType.TRAIN, RecordDict({"header": ConfigRecord({"json": "{"})}), {})
    assert "not an envelope" in reply.error.reason
