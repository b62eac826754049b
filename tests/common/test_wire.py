"""Envelopes: whole through Flower's records, and everything else refused in one way."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import WireError
from common.wire import PROTOCOL, Envelope, pack, unpack

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
HEADERS = st.dictionaries(
    st.text().filter(lambda k: k != "protocol"), PLAIN | st.lists(PLAIN, max_size=3), max_size=5
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(HEADERS, st.binary(max_size=200))
def test_every_envelope_comes_back_as_it_was(header, payload):
    # Broken once: a payload cut at the first NUL, or a header without ensure_ascii.
    assert unpack(pack(Envelope(header, payload))) == Envelope(header, payload)


def test_an_empty_payload_is_a_payload():
    assert unpack(pack(Envelope({"kind": "join"}))) == Envelope({"kind": "join"}, b"")


def test_equal_envelopes_are_equal_records_whatever_the_order_of_keys():
    one, other = pack(Envelope({"a": 1, "b": 2})), pack(Envelope({"b": 2, "a": 1}))
    assert one.config_records["header"]["json"] == other.config_records["header"]["json"]


def test_packing_leaves_the_header_alone():
    header = {"kind": "join"}
    unpack(pack(Envelope(header)))
    assert header == {"kind": "join"}


def records(text=None, payload=b"x"):
    found = {}
    if text is not None:
        found["header"] = ConfigRecord({"json": text})
    if payload is not None:
        array = Array(dtype="uint8", shape=(len(payload),), stype="s", data=payload)
        found["payload"] = ArrayRecord({"payload": array})
    return RecordDict(found)


FOREIGN = {
    "nothing": RecordDict({}),
    "no header": records(None),
    "no payload": records(f'{{"protocol": {PROTOCOL}}}', None),
    "no protocol": records('{"kind": "join"}'),
    "not JSON": records("{protocol"),
    "a list": records("[1]"),
    "a text": records('"protocol"'),
    "null": records("null"),
    "nested without end": records("[" * 100_000),
    "another key": RecordDict({"header": ConfigRecord({"text": "{}"})}),
    "another kind of record": RecordDict({"header": ArrayRecord(), "payload": ConfigRecord()}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_records_are_one_clear_error(name):
    # Broken once: brackets nested 100,000 deep came out as a RecursionError, and ended the agent.
    with pytest.raises(WireError, match="not an envelope") as caught:
        unpack(FOREIGN[name])
    assert "same version" in caught.value.remedy


@pytest.mark.parametrize("protocol", ["2", "0", '"1"', "[1]", "null"])
def test_another_protocol_is_refused_with_both_versions_named(protocol):
    with pytest.raises(WireError, match=f"this side {PROTOCOL}"):
        unpack(records(f'{{"protocol": {protocol}}}'))
