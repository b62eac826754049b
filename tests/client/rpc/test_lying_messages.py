"""What is no message, or no honest one: random bytes, gigabytes, floods, at a real agent's door."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from client.policy import Reason
from client.rpc import admin
from client.rpc.agent_pb2 import Chunk
from client.rpc.agent_pb2_grpc import RelayStub
from client.rpc.chunks import CHUNK, join, split
from common.wire import Envelope
from tests.client.rpc.lied_to import Hospital, approved_site, lied_to
from tests.client.rpc.running import LONG_S

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def approved() -> Iterator[Path]:
    with approved_site() as folder:
        yield folder


@pytest.fixture
def hospital(approved: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Hospital]:
    with lied_to(approved, caplog) as hospital:
        yield hospital


def at_door(hospital: Hospital, *chunks: Chunk) -> Envelope:
    with grpc.insecure_channel(hospital.relay) as channel:
        return join(RelayStub(channel).Ask(iter(chunks), timeout=LONG_S))


def header(hospital: Hospital, **lies: Any) -> bytes:
    honest = {"kind": "train", "digest": hospital.plan.digest, "run": "main", "round": 1}
    return json.dumps({**honest, **lies}).encode()


@pytest.mark.parametrize("size", [2_000_000_000, 2**63, 2**64 - 1])
def test_a_message_of_gigabytes_is_refused_by_its_announcement(
    hospital: Hospital, size: int
) -> None:
    answer = at_door(hospital, Chunk(header=header(hospital), size=size, data=b"x"))
    assert answer.header["reason"] == str(Reason.TOO_LARGE)
    assert f"{size:,} bytes" in hospital.caplog.text  # before the agent is asked: its log has it
    hospital.assert_unharmed()


def test_a_message_that_is_larger_than_it_says_is_left_at_once(hospital: Hospital) -> None:
    taken = 0

    def flood() -> Iterator[Chunk]:
        nonlocal taken
        yield Chunk(header=header(hospital), size=10, data=b"x")
        for _ in range(2000):
            taken += 1
            yield Chunk(data=bytes(CHUNK))

    with grpc.insecure_channel(hospital.relay) as channel:
        answer = join(RelayStub(channel).Ask(flood(), timeout=LONG_S))
    assert taken < 100  # of the two gigabytes
    assert "longer than it announced" in hospital.caplog.text
    hospital.assert_refused(answer, Reason.MALFORMED)


@pytest.mark.parametrize(("size", "data"), [(10, b"short"), (0, b"x"), (1, b"")])
def test_a_message_that_lies_about_its_size_is_malformed(
    hospital: Hospital, size: int, data: bytes
) -> None:
    answer = at_door(hospital, Chunk(header=header(hospital), size=size, data=data))
    hospital.assert_refused(answer, Reason.MALFORMED)


def test_bytes_that_are_no_grpc_are_nothing_to_the_agent(hospital: Hospital) -> None:
    for noise in (b"\xff" * 4096, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0"):
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(hospital.relay.removeprefix("unix:"))
            visitor.sendall(noise)
    hospital.assert_unharmed()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = ("kind", "digest", "run", "round", "seen", "card")


def fuzzed(**options: Any) -> Callable[[Any], Any]:
    """Examples share one agent, for which a fixture of each test is well enough."""
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=60, deadline=None, suppress_health_check=health, **options)


@fuzzed()
@given(parts=st.lists(st.tuples(st.binary(max_size=99), st.integers(0, 99)), max_size=3))
def test_random_chunks_are_refused(hospital: Hospital, parts: list[tuple[bytes, int]]) -> None:
    chunks = [Chunk(header=data, size=size, data=data[::-1]) for data, size in parts]
    assert at_door(hospital, *chunks).header["status"] == "refused"
    assert_idle(hospital)


@fuzzed()
@given(data=st.binary(max_size=300))
def test_random_bytes_are_no_message(hospital: Hospital, data: bytes) -> None:
    with grpc.insecure_channel(hospital.relay) as channel:
        ask = channel.stream_stream("/grandrounds.v1.Relay/Ask")
        try:
            list(ask(iter([data]), timeout=LONG_S))
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)  # noqa: PT017
    assert_idle(hospital)


@fuzzed()
@given(
    lies=st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1),
    payload=st.binary(max_size=200),
)
def test_random_headers_and_payloads_are_refused(
    hospital: Hospital, lies: dict[str, Any], payload: bytes
) -> None:
    answer = at_door(hospital, *split(Envelope(json.loads(header(hospital)) | lies, payload)))
    assert answer.header["status"] == "refused"
    assert_idle(hospital)


@fuzzed()
@given(table=VALUES, entries=st.lists(VALUES, max_size=2), data=st.binary(max_size=40))
@example(table=7, entries=[], data=b"")
def test_weights_under_a_random_table_are_malformed(
    hospital: Hospital, table: Any, entries: list[Any], data: bytes
) -> None:
    if entries:
        fields = ("dtype", "shape", "data_offsets")
        ours = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        table = {f"w{n}": {**ours, fields[n]: value} for n, value in enumerate(entries)}
    text = json.dumps(table).encode()
    payload = len(text).to_bytes(8, "little") + text + data
    answer = at_door(hospital, *split(Envelope(json.loads(header(hospital)), payload)))
    assert answer.header["reason"] == str(Reason.MALFORMED)
    assert_idle(hospital)


def assert_idle(hospital: Hospital) -> None:
    """After each example: nothing is in the ledger but refusals, and the agent is well."""
    assert hospital.agent.ledger.entries("reserve") == []
    assert hospital.agent.ledger.behind is None
    assert admin.health(hospital.folder)["agent"] == "SERVING"


def test_after_a_flood_the_ledger_is_short_and_the_agent_at_work(hospital: Hospital) -> None:
    """Break it once: enter every refusal, and a flood fills the hospital's disk."""

    def lie(number: int) -> str:
        answer = hospital.ask(round=-number, kind="x" * 30_000)
        return str(answer.header["reason"])

    with ThreadPoolExecutor(8) as pool:
        at_once = set(pool.map(lie, range(300)))
    assert at_once <= {str(Reason.MALFORMED), str(Reason.BUSY)}
    assert {lie(number) for number in range(30)} == {str(Reason.MALFORMED)}
    assert 20 <= len(hospital.refusals()) <= 25
    assert len(hospital.caplog.text) < 330 * 1000
    assert (hospital.folder / "site.log").stat().st_size < 330 * 200
    hospital.assert_unharmed()
