"""One message between coordinator and hospital, and how it travels in Flower's records.

This is the only module of `common` that knows Flower, and it knows no tensors: a payload is bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.errors import WireError

PROTOCOL: Final = 1

Header = dict[str, Any]


@dataclass(frozen=True)
class Envelope:
    """A message: a small header of plain values, and a payload.

    A request's header holds `kind` (join, train, evaluate, deliver), `digest`, `run` and `round`,
    and `seen` with `tag`: the count and the tag of the receipt with the highest count that the
    coordinator had from this site. A reply's holds `status` ('ok' or 'refused'), with `reason`
    where it was refused and else what the kind asks for: `site` and `declared` (join), the receipt
    `epsilon`, `reserves` and `tag`, which a simulated site leaves out (train, evaluate).
    """

    header: Header
    payload: bytes = b""


def pack(envelope: Envelope) -> RecordDict:
    """Return the envelope as Flower records: a JSON text, and bytes that Flower may chunk."""
    text = json.dumps({"protocol": PROTOCOL, **envelope.header}, sort_keys=True)
    payload = Array(
        dtype="uint8",
        shape=(len(envelope.payload),),
        stype="grandrounds.payload",
        data=envelope.payload,
    )
    return RecordDict(
        {"header": ConfigRecord({"json": text}), "payload": ArrayRecord({"payload": payload})}
    )


def unpack(content: RecordDict) -> Envelope:
    """Return the envelope that `pack` wrote.

    Raises:
        WireError: the records are not an envelope of this protocol.

    >>> unpack(pack(Envelope({"kind": "join"}, b"abc"))).payload
    b'abc'
    """
    try:
        header = json.loads(str(content.config_records["header"]["json"]))
        payload = content.array_records["payload"]["payload"].data
        protocol = header.pop("protocol")
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise WireError(
            f"the message is not an envelope of grandrounds ({error!r})",
            remedy="use the same version of grandrounds on both sides",
        ) from None
    if protocol != PROTOCOL:
        raise WireError(
            f"the message speaks protocol {protocol}, this side {PROTOCOL}",
            remedy="use the same version of grandrounds on both sides",
        )
    return Envelope(header, payload)
