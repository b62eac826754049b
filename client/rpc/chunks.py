"""An envelope as chunks of a stream, and back, holding its payload in memory once."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from typing import Final

from client.rpc.agent_pb2 import Chunk
from common.errors import WireError
from common.wire import Envelope

CHUNK: Final = 2**20
"""Bytes of payload in a chunk."""

HEADER: Final = 2**16
"""Most bytes of a header."""

# gRPC refuses a message above this from its length alone, before it takes any of it in.
MESSAGE: Final = CHUNK + HEADER + 1024

BEGUN: Final = (("begun", "1"),)
"""What the agent sends ahead when it begins to compute an answer: from here on it may cost."""


class TooLargeError(WireError):
    """A message larger than the side that receives it allows."""


def split(envelope: Envelope, *, chunk: int = CHUNK) -> Iterator[Chunk]:
    """Give an envelope's chunks; the first one carries the header and the payload's size.

    Args:
        envelope: What to send.
        chunk: Bytes of payload in a chunk.
    """
    payload = memoryview(envelope.payload)
    header = json.dumps(envelope.header).encode()
    yield Chunk(header=header, size=len(payload), data=bytes(payload[:chunk]))
    for start in range(chunk, len(payload), chunk):
        yield Chunk(data=bytes(payload[start : start + chunk]))


def join(chunks: Iterable[Chunk], *, limit: int | None = None) -> Envelope:
    """Return the envelope of a stream, whatever the other side sent.

    Args:
        chunks: The stream. It is left where it is as soon as it goes wrong.
        limit: Most bytes of payload; None for no limit.

    Raises:
        TooLargeError: it is larger than allowed; nothing of it was kept.
        WireError: the chunks are not one envelope; no more was kept than it announced.

    >>> join(split(Envelope({"round": 1}, b"abcde"), chunk=2))
    Envelope(header={'round': 1}, payload=b'abcde')
    """
    rest = iter(chunks)
    first = next(rest, None)
    if first is None:
        raise _malformed("it is empty")
    header, size = _header(first.header), first.size
    if limit is not None and size > limit:
        raise TooLargeError(
            f"the message announces {size:,} bytes, more than the {limit:,} allowed",
            remedy="allow more with max_message_mb in policy.toml, or train a smaller model",
        )
    # A BytesIO gives its bytes away without copying them; a lying size costs no memory.
    payload = io.BytesIO()
    payload.write(first.data)
    for chunk in rest:
        if chunk.header or chunk.size or not chunk.data:
            raise _malformed("a later chunk is not one of data")
        if payload.tell() + len(chunk.data) > size:
            raise _malformed("it is longer than it announced")
        payload.write(chunk.data)
    if payload.tell() != size:
        raise _malformed(f"it announced {size:,} bytes and brought {payload.tell():,}")
    return Envelope(header, payload.getvalue())


def _header(text: bytes) -> dict[str, object]:
    if len(text) > HEADER:
        raise _malformed(f"its header has more than {HEADER:,} bytes")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise _malformed("its header cannot be read") from None
    if not isinstance(header, dict):
        raise _malformed("its header is not a table")
    return header


def _malformed(what: str) -> WireError:
    return WireError(
        f"the message is malformed: {what}",
        remedy="use the same version of grandrounds on both sides",
    )
