"""The agent's two doors, with a fake agent behind them: who gets in, and how many at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.policy import Reason
from client.rpc.agent_pb2 import Chunk, Command
from client.rpc.agent_pb2_grpc import AdministratorStub, RelayStub
from client.rpc.chunks import CHUNK, join, split
from client.rpc.relay import ask_agent
from common.wire import Envelope
from tests.client.rpc.running import LONG_S, SlowAgent, running, short_folder, until


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def echo(request: Envelope) -> Envelope:
    return Envelope({"status": "ok", "asked": request.header}, request.payload[::-1])


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * CHUNK + 5])
def test_a_request_and_its_answer_pass_whole(folder: Path, size: int) -> None:
    payload = bytes(n % 253 for n in range(1000)) * (size // 1000 + 1)
    request = Envelope({"kind": "train", "round": 1, "é": [None]}, payload[:size])
    with running(echo, folder) as servers:
        answer = ask_agent(servers.relay, request)
    assert answer.header == {"status": "ok", "asked": request.header}
    assert answer.payload == request.payload[::-1]


def test_a_message_above_the_limit_is_refused_and_never_reaches_the_agent(folder: Path) -> None:
    with running(
        lambda request: pytest.fail("asked"), folder, max_message=4 * CHUNK, site="cleveland"
    ) as servers:
        answer = ask_agent(servers.relay, Envelope({}, bytes(4 * CHUNK + 1)))
    reason = str(Reason.TOO_LARGE)
    assert answer.header == {"status": "refused", "reason": reason, "site": "cleveland"}


def test_a_single_chunk_of_any_size_is_refused_from_its_length(folder: Path) -> None:
    huge = Chunk(header=b"{}", size=1, data=bytes(3 * CHUNK))
    with running(echo, folder) as servers, grpc.insecure_channel(servers.relay) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(RelayStub(channel).Ask(iter([huge]), timeout=LONG_S))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ask_agent(servers.relay, Envelope({})).header["status"] == "ok"


@pytest.mark.parametrize("garbage", [b"\xff\xfe\x00", b"{", b"[]", b""], ids=repr)
def test_a_header_of_garbage_is_put_to_the_agent_as_an_empty_request(
    folder: Path, garbage: bytes
) -> None:
    """So that the agent refuses it and notes that it did, as it does with every other."""
    seen = []

    def agent(request: Envelope) -> Envelope:
        seen.append(request)
        return Envelope({"status": "refused", "reason": str(Reason.MALFORMED)})

    with running(agent, folder) as servers, grpc.insecure_channel(servers.relay) as channel:
        sent = [Chunk(header=garbage, data=b"x", size=1)]
        answer = join(RelayStub(channel).Ask(iter(sent), timeout=LONG_S))
    assert answer.header["reason"] == "malformed request"
    assert seen == [Envelope({})]


def test_random_bytes_leave_the_agent_healthy(folder: Path) -> None:
    with running(echo, folder) as servers, grpc.insecure_channel(servers.relay) as channel:
        raw = channel.stream_stream("/grandrounds.v1.Relay/Ask")
        with pytest.raises(grpc.RpcError):
            list(raw(iter([b"\xff" * 999]), timeout=LONG_S))
        assert ask_agent(servers.relay, Envelope({})).header["status"] == "ok"


def test_the_relays_door_knows_no_other_service(folder: Path) -> None:
    with running(echo, folder) as servers, grpc.insecure_channel(servers.relay) as channel:
        for call in (
            lambda: AdministratorStub(channel).Call(Command(name="status"), timeout=LONG_S),
            lambda: channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=LONG_S),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_administrators_door_answers_no_round(folder: Path) -> None:
    with running(echo, folder) as servers, grpc.insecure_channel(servers.admin) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(RelayStub(channel).Ask(split(Envelope({})), timeout=LONG_S))
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_one_round_at_a_time_two_waiting_and_the_rest_is_told_that_it_is_busy(
    folder: Path,
) -> None:
    agent = SlowAgent()
    with running(agent, folder) as servers, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask_agent, servers.relay, Envelope({"round": n})) for n in range(3)]
        until(lambda: servers._turns._places._value == 0)
        # With a payload of several chunks, of which the agent takes none.
        busy = ask_agent(servers.relay, Envelope({"round": 9}, bytes(3 * CHUNK)))
        assert busy.header["reason"] == "the agent is busy"
        assert len(agent.begun) == 1
        agent.go_on.set()
        assert sorted(a.result(LONG_S).header["round"] for a in asked) == [0, 1, 2]
        assert agent.most_at_once == 1
        assert ask_agent(servers.relay, Envelope({"round": 3})).header["round"] == 3


def test_who_leaves_while_waiting_is_not_computed_and_frees_the_place(folder: Path) -> None:
    agent = SlowAgent()
    with running(agent, folder) as servers, ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask_agent, servers.relay, Envelope({"round": 0}))
        until(lambda: len(agent.begun) == 1)
        with grpc.insecure_channel(servers.relay) as channel:
            leaving = [
                RelayStub(channel).Ask(split(Envelope({"round": n})), timeout=LONG_S)
                for n in (1, 2)
            ]
            until(lambda: servers._turns._places._value == 0)
            for call in leaving:
                call.cancel()
        agent.go_on.set()
        assert first.result(LONG_S).header["round"] == 0
        until(lambda: servers._turns._places._value == 3)
    assert [request.header["round"] for request in agent.begun] == [0]


def test_who_does_not_take_the_answer_holds_one_place_and_gives_it_back(folder: Path) -> None:
    answer = Envelope({"status": "ok"}, bytes(64 * CHUNK))
    with running(lambda request: answer, folder) as servers:
        with grpc.insecure_channel(servers.relay) as channel:
            call = RelayStub(channel).Ask(split(Envelope({})), timeout=LONG_S)
            next(call)
            assert servers._turns._places._value == 2
            call.cancel()
        until(lambda: servers._turns._places._value == 3)


def test_a_handler_that_breaks_is_a_refusal_without_its_words(folder: Path) -> None:
    def broken(request: Envelope) -> Envelope:
        raise ValueError("patient 17 is odd")

    with running(broken, folder) as servers:
        answer = ask_agent(servers.relay, Envelope({}))
    assert answer.header["reason"] == str(Reason.FAILED)
    assert "17" not in str(answer)


def test_stopping_lets_the_running_round_finish_and_sends_the_waiting_away(folder: Path) -> None:
    agent = SlowAgent()
    with running(agent, folder) as servers, ThreadPoolExecutor(8) as pool:
        running_round = pool.submit(ask_agent, servers.relay, Envelope({"round": 1}))
        until(lambda: len(agent.begun) == 1)
        with grpc.insecure_channel(servers.relay) as channel:
            waiting = RelayStub(channel).Ask(split(Envelope({"round": 2})), timeout=LONG_S)
            until(lambda: servers._turns._places._value == 1)
            stopped = pool.submit(servers.stop, LONG_S)
            with pytest.raises(grpc.RpcError) as caught:
                list(waiting)
            # Which of the two depends on whether the connection or the call is told first.
            assert caught.value.code() in (
                grpc.StatusCode.CANCELLED,
                grpc.StatusCode.UNAVAILABLE,
            )
        assert not stopped.done()
        agent.go_on.set()
        assert running_round.result(LONG_S).header["round"] == 1
        assert stopped.result(LONG_S) is True
    assert len(agent.begun) == 1
    assert not (folder / "relay" / "agent.sock").exists()
    assert not (folder / "admin" / "agent.sock").exists()


def test_stopping_waits_no_longer_than_its_grace(folder: Path) -> None:
    agent = SlowAgent()
    with running(agent, folder) as servers, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_for_once, servers.relay)
        until(lambda: len(agent.begun) == 1)
        start = time.monotonic()
        assert servers.stop(0.2) is False
        assert time.monotonic() - start < LONG_S
        agent.go_on.set()
        assert asked.result(LONG_S) is not None


def ask_for_once(target: str) -> Any:
    """Ask without asking again; return the code of the failure."""
    with grpc.insecure_channel(target) as channel:
        try:
            list(RelayStub(channel).Ask(split(Envelope({})), timeout=LONG_S))
        except grpc.RpcError as error:
            return error.code()
    return None


def test_a_flood_of_calls_is_turned_away_without_a_thread_for_each(folder: Path) -> None:
    agent = SlowAgent()
    before = threading.active_count()
    with running(agent, folder) as servers, grpc.insecure_channel(servers.relay) as channel:
        calls = [
            RelayStub(channel).Ask(split(Envelope({"round": n})), timeout=LONG_S) for n in range(40)
        ]
        until(lambda: len(agent.begun) == 1)
        assert threading.active_count() - before < 80
        agent.go_on.set()
        outcomes = [join(call).header.get("reason") for call in calls]
    assert outcomes.count("the agent is busy") + outcomes.count(None) == 40
    assert agent.most_at_once == 1
