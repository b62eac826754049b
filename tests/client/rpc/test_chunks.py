"""An envelope's way through a stream: whole again, or refused before it fills the memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.rpc.agent_pb2 import Chunk
from client.rpc.chunks import CHUNK, HEADER, MESSAGE, TooLargeError, join, split
from common.errors import WireError
from common.wire import Envelope

HEADERS = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=8)
)


@given(header=HEADERS, chunks=st.integers(0, 3), beside=st.integers(-1, 1), chunk=st.integers(1, 9))
def test_an_envelope_comes_whole_whatever_its_size(
    header: dict[str, object], chunks: int, beside: int, chunk: int
) -> None:
    size = max(chunks * chunk + beside, 0)
    envelope = Envelope(header, bytes(n % 251 for n in range(size)))
    parts = list(split(envelope, chunk=chunk))
    assert join(parts, limit=size) == envelope
    assert len(parts) == max(-(-size // chunk), 1)  # ceiling, and one where it is empty
    assert all(len(part.data) <= chunk for part in parts)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_an_envelope_comes_whole_in_real_chunks(size: int) -> None:
    envelope = Envelope({"kind": "train"}, b"\x07" * size)
    parts = list(split(envelope))
    assert join(parts) == envelope
    assert all(part.ByteSize() <= MESSAGE for part in parts)


BROKEN = {
    "nothing": [],
    "random header": [Chunk(header=b"\xff\x00\x80{")],
    "header no table": [Chunk(header=b"[1]")],
    "header too deep": [Chunk(header=b"[" * 60_000)],
    "header with a huge number": [Chunk(header=b'{"round": ' + b"9" * 5_000 + b"}")],
    "header too long": [Chunk(header=b'{"a": "' + b"x" * HEADER + b'"}')],
    "too short": [Chunk(header=b"{}", size=3, data=b"ab")],
    "too long at once": [Chunk(header=b"{}", size=1, data=b"ab")],
    "too long later": [Chunk(header=b"{}", size=1, data=b"a"), Chunk(data=b"b")],
    "a second header": [Chunk(header=b"{}", size=2, data=b"a"), Chunk(header=b"{}", data=b"b")],
    "a second size": [Chunk(header=b"{}", size=2, data=b"a"), Chunk(size=9, data=b"b")],
    "an empty chunk": [Chunk(header=b"{}", size=1, data=b"a"), Chunk()],
}


@pytest.mark.parametrize("chunks", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_not_one_envelope_is_refused(chunks: list[Chunk]) -> None:
    with pytest.raises(WireError, match="malformed"):
        join(chunks)


def test_a_message_above_the_limit_is_refused_by_its_announcement() -> None:
    taken = []

    def chunks() -> Iterator[Chunk]:
        for part in split(Envelope({}, bytes(10)), chunk=4):
            taken.append(part)
            yield part

    with pytest.raises(TooLargeError, match="10 bytes, more than the 9"):
        join(chunks(), limit=9)
    assert len(taken) == 1


def test_a_message_longer_than_announced_is_left_at_once() -> None:
    def flood() -> Iterator[Chunk]:
        yield Chunk(header=b"{}", size=2 * CHUNK)
        while True:
            yield Chunk(data=bytes(CHUNK))

    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="longer than it announced"):
            join(flood(), limit=2 * CHUNK)
        assert tracemalloc.get_traced_memory()[1] < 6 * CHUNK
    finally:
        tracemalloc.stop()


def test_a_payload_is_put_together_without_a_second_copy() -> None:
    """Joining the chunks' bytes at the end instead would need them twice."""
    size = 32 * CHUNK
    tracemalloc.start()
    try:
        joined = join(
            Chunk(header=b"{}" if n == 0 else b"", size=size * (n == 0), data=bytes(CHUNK))
            for n in range(32)
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(joined.payload) == size
    assert peak < 1.25 * size
