"""Transports are found by name, and a name that is not installed says so."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import Context, RecordDict

import client.transport
from client.agent import folder_transport
from client.transport import connect
from common.errors import WireError
from common.wire import Envelope


def context(**node: Any) -> Context:
    return Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config={})


def test_the_folder_transport_is_installed() -> None:
    assert client.transport._load(client.transport.DEFAULT) is folder_transport


def test_an_unknown_transport_is_named_with_a_remedy() -> None:
    with pytest.raises(WireError, match="transport 'pigeon' is not installed") as caught:
        connect(context(transport="pigeon"))
    assert "reinstall" in caught.value.remedy


def test_the_nodes_own_configuration_chooses_the_transport(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def load(name: str) -> Any:
        asked.append(name)
        return lambda context: lambda request: Envelope({"status": "ok"})

    monkeypatch.setattr(client.transport, "_load", load)
    for given in (context(), context(transport="socket")):
        assert connect(given)(Envelope({})).header == {"status": "ok"}
    assert asked == ["folder", "socket"]
