"""The relay's way to the agent: it waits for one that starts again, and gives up in the end."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from flwr.app import Context, Message, MessageType, RecordDict

import client.app
import client.transport
from client.rpc import relay
from client.rpc.agent_pb2_grpc import RelayServicer, RelayStub, add_RelayServicer_to_server
from client.rpc.chunks import BEGUN, join, split
from common.errors import SiteError, WireError
from common.wire import Envelope, pack, unpack
from simulations.grid import InProcessGrid
from tests.client.rpc.running import SlowAgent, running, short_folder, until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def context(**node: Any) -> Context:
    config = {name.replace("_", "-"): value for name, value in node.items()}
    return Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config={})


def answer(request: Envelope) -> Envelope:
    return Envelope({"status": "ok", "round": request.header.get("round")}, request.payload)


def test_it_imports_nothing_that_reads_tensors_patients_or_the_ledger() -> None:
    code = (
        "import sys, client.app, client.rpc.relay, client.rpc.agent_pb2_grpc;"
        "print([m for m in ('torch', 'pandas', 'sqlite3', 'safetensors', 'client.agent',"
        " 'client.gate', 'client.ledger', 'client.policy', 'client.site') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_node_that_names_an_agent_is_relayed_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.transport, "_load", lambda name: {"agent": relay.connect}[name])
    with running(answer, folder) as servers:
        grid = InProcessGrid(client.app.app, nodes={5: {"agent": servers.relay}}, run_config={})
        request = Envelope({"round": 3}, b"weights")
        [reply] = grid.send_and_receive([Message(pack(request), 5, MessageType.TRAIN)])
    assert unpack(reply.content) == answer(request)


def test_on_tcp_it_reads_the_token_from_its_file(folder: Path) -> None:
    with running(answer, folder, tcp=0) as servers:
        file = str(folder / "relay" / "token")
        ask = relay.connect(context(agent=servers.relay, token_file=file))
        assert ask(Envelope({"round": 1})).header["round"] == 1
        with pytest.raises(WireError, match="does not know this relay's token"):
            relay.connect(context(agent=servers.relay))(Envelope({}))
        with pytest.raises(SiteError, match="cannot read its token-file") as caught:
            relay.connect(context(agent=servers.relay, token_file=str(folder / "no")))(Envelope({}))
    assert str(folder) not in str(caught.value)


@pytest.mark.parametrize("agent", ["", "10.0.0.1:99", "hospital.org:99", "127.0.0.1.evil.org:1"])
def test_an_agent_on_another_machine_is_refused(agent: str) -> None:
    with pytest.raises(SiteError, match="names no agent of this machine"):
        relay.connect(context(agent=agent))


def test_it_gives_up_on_an_agent_that_stays_away_and_names_no_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "WAIT_S", 0.3)
    target = f"unix:{folder}/relay/agent.sock"
    grid = InProcessGrid(
        lambda message, ctxt: client.app.app(message, ctxt),
        nodes={5: {"agent": target}},
        run_config={},
    )
    monkeypatch.setattr(client.transport, "_load", lambda name: relay.connect)
    [reply] = grid.send_and_receive([Message(pack(Envelope({})), 5, MessageType.TRAIN)])
    assert "the site's agent does not answer" in reply.error.reason
    assert str(folder) not in reply.error.reason


def test_it_waits_for_an_agent_that_is_starting(folder: Path) -> None:
    (folder / "relay").mkdir()
    target = f"unix:{folder}/relay/agent.sock"
    answers: list[Envelope] = []
    asking = threading.Thread(
        target=lambda: answers.append(relay.ask_agent(target, Envelope({"round": 4})))
    )
    asking.start()
    with running(answer, folder):
        asking.join(20)
    assert [a.header["round"] for a in answers] == [4]


class Dying(RelayServicer):
    """Breaks off a number of calls, then answers."""

    def __init__(self, code: grpc.StatusCode, times: int, *, begins: bool) -> None:
        self.code, self.times, self.begins, self.asked = code, times, begins, 0

    def Ask(self, request_iterator: Any, context: Any) -> Any:
        self.asked += 1
        if self.asked <= self.times:
            if self.begins:
                context.send_initial_metadata(BEGUN)
            context.abort(self.code, "gone")
        yield from split(Envelope({"status": "ok"}))


@contextmanager
def serving(servicer: RelayServicer, folder: Path) -> Iterator[str]:
    server, target = grpc.server(ThreadPoolExecutor(2)), f"unix:{folder}/agent.sock"
    add_RelayServicer_to_server(servicer, server)
    server.add_insecure_port(target)
    server.start()
    try:
        yield target
    finally:
        server.stop(None)


LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@pytest.mark.parametrize("code", LOST)
@pytest.mark.parametrize(("begins", "times"), [(True, 1), (False, 4)])
def test_a_request_that_was_broken_off_is_asked_again(
    folder: Path, code: grpc.StatusCode, begins: bool, times: int
) -> None:
    """As often as it takes while nothing was computed; once more where it was begun."""
    dying = Dying(code, times, begins=begins)
    with serving(dying, folder) as target:
        assert relay.ask_agent(target, Envelope({})).header == {"status": "ok"}
    assert dying.asked == times + 1


@pytest.mark.parametrize(
    ("code", "asked"), [(LOST[0], 2), (LOST[1], 2), (grpc.StatusCode.INTERNAL, 1)]
)
def test_a_request_that_kills_the_agent_is_begun_twice_and_no_more(
    folder: Path, code: grpc.StatusCode, asked: int
) -> None:
    """It is charged each time."""
    dying = Dying(code, 9, begins=True)
    broken_off = pytest.raises(WireError, match=f"did not answer \\({code.name}\\)")
    with serving(dying, folder) as target, broken_off:
        relay.ask_agent(target, Envelope({}))
    assert dying.asked == asked


def test_the_agent_tells_when_it_begins_and_only_then(folder: Path) -> None:
    agent = SlowAgent()
    with running(agent, folder) as servers, grpc.insecure_channel(servers.relay) as channel:
        first = RelayStub(channel).Ask(split(Envelope({})), timeout=20)
        assert BEGUN[0] in map(tuple, first.initial_metadata())
        until(lambda: len(agent.begun) == 1)
        waiting = RelayStub(channel).Ask(split(Envelope({})), timeout=20)
        waiting.cancel()
        assert BEGUN[0] not in map(tuple, waiting.initial_metadata() or ())
        agent.go_on.set()
        assert join(first).header["status"] == "ok"
