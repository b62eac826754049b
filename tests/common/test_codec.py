"""Tensors to bytes and back: exact, and closed to whatever is no safetensors document."""

import json
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from common.codec import decode, encode
from common.errors import WireError
from common.params import flatten, unflatten

PARAMS = {"b": torch.tensor([0.1, -0.0, 3e38]), "a": torch.arange(6.0).reshape(2, 3)}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype
        and one[k].shape == other[k].shape
        and one[k].numpy().tobytes() == other[k].numpy().tobytes()
        for k in one
    )


@pytest.mark.parametrize(
    "params",
    [
        PARAMS,
        {},
        {"scalar": torch.tensor(2.5)},
        {"none": torch.zeros(0, 3)},
        {"special": torch.tensor([float("nan"), float("inf"), -float("inf")])},
        {"double": torch.ones(2, dtype=torch.float64), "count": torch.tensor([7])},
    ],
)
def test_round_trip_is_exact_to_the_bit(params):
    assert same(decode(encode(params)), params)


def test_documents_are_those_of_the_library():
    params = {**PARAMS, "count": torch.tensor([7]), "d": torch.ones(2, dtype=torch.float64)}
    assert encode(params) == save(params)
    assert same(load(encode(params)), params)
    assert same(decode(save(params, metadata={"made": "by hand"})), params)


def test_names_come_back_in_order_and_equal_values_give_equal_bytes():
    swapped = dict(reversed(PARAMS.items()))
    assert list(decode(encode(PARAMS))) == ["a", "b"]
    assert encode(PARAMS) == encode(swapped)


def test_views_and_gradients_are_encoded_as_plain_values():
    # A transposed view, pieces of one vector (what `unflatten` gives), and a trainable parameter.
    pieces = unflatten(flatten(PARAMS), PARAMS)
    assert same(decode(encode(pieces)), PARAMS)
    transposed = {"t": PARAMS["a"].t(), "p": torch.nn.Parameter(torch.ones(1))}
    found = decode(encode(transposed))
    assert torch.equal(found["t"], PARAMS["a"].t())
    assert not found["p"].requires_grad


def document(header, body=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\xff" * 100,  # a header of 2^64 - 1 bytes
        encode(PARAMS)[:-1],
        encode(PARAMS) + b"x",
        document({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}, b"\0" * 4),
        document({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"\0"),
        document(
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
            | {"b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
            b"\0" * 4,
        ),
        document({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}, b"\0" * 4),
        document({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, b"\0" * 4),
        document({"a": {"dtype": "F32", "shape": [0, 2**70], "data_offsets": [0, 0]}}),
        document({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"\0" * 4),
        document({"a": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
        document({"a": 1}),
        document([1]),
        document(7),
        document({"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        (10**5).to_bytes(8, "little") + b"[" * 10**5,
        b"\x80\x04]\x94.",  # a pickle
    ],
)
def test_bytes_that_are_no_document_are_one_clear_error(data):
    # Broken once: a type that torch lacks came out as a bare KeyError.
    with pytest.raises(WireError, match="cannot be read") as caught:
        decode(data)
    assert caught.value.remedy


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.integers(0, len(encode(PARAMS)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_decoded_or_refused_and_nothing_else(at, change):
    data = bytearray(encode(PARAMS))
    data[at] ^= change
    with suppress(WireError):
        decode(bytes(data))
