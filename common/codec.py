"""Tensors to bytes and back: safetensors documents, never a pickle, and never a second copy.

The library copies a document on both ways, which a model of forty megabytes feels. A document is a
length of 8 bytes, that much JSON (name -> type, shape, where its bytes begin and end), the bytes.
"""

from __future__ import annotations

import json
import math
import warnings
from typing import Any, Final

import torch

from common.errors import WireError
from common.params import Params

_TYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_CODES: Final = {dtype: code for code, dtype in _TYPES.items()}

# Torch warns once that nobody must write to a tensor over bytes: nobody does (see common.params).
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


def encode(params: Params) -> bytes:
    """Return named tensors as a safetensors document; equal values give equal bytes."""
    header: dict[str, Any] = {}
    pieces: list[Any] = []
    end = 0
    for name in sorted(params, key=lambda k: (-params[k].element_size(), k)):  # aligned, all of it
        value = params[name].detach().cpu().contiguous()
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {
            "dtype": _CODES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [begin, end],
        }
        if value.numel():
            pieces.append(value.reshape(-1).view(torch.uint8).numpy())
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *pieces])


def decode(data: bytes) -> Params:
    """Return the named tensors of a safetensors document, in the order of their names.

    The tensors lie in the bytes themselves: they must not be written to.

    Raises:
        WireError: the bytes are not such a document.

    >>> decode(encode({"w": torch.tensor([1.0, 2.0])}))["w"].tolist()
    [1.0, 2.0]
    """
    try:
        return _read(data)
    # RuntimeError is torch's of a shape, of which RecursionError is one: JSON nested too deep.
    except (ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise WireError(
            f"the message's tensors cannot be read: {error}",
            remedy="use the same version of grandrounds on both sides",
        ) from None


def _read(data: bytes) -> Params:
    start = 8 + int.from_bytes(data[:8], "little")
    if not 8 <= start <= len(data):
        raise ValueError("the header is longer than the message")
    header = json.loads(data[8:start])
    if not isinstance(header, dict):
        raise ValueError("the header is no table")
    header.pop("__metadata__", None)
    params, expected = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != expected:
            raise ValueError(f"the bytes of {name!r} do not begin where the last ones end")
        params[name] = _tensor(data, entry, start + begin, start + end)
        expected = end
    if start + expected != len(data):
        raise ValueError("the tensors do not fill the message")
    return {name: params[name] for name in sorted(params)}


def _tensor(data: bytes, entry: dict[str, Any], begin: int, end: int) -> torch.Tensor:
    """Return the tensor between two places, which may be anything; so may the entry."""
    dtype, shape = _TYPES[entry["dtype"]], entry["shape"]
    if not all(type(n) is int and n >= 0 for n in (begin, end, *shape)):
        raise ValueError("a size is no whole number")
    count = math.prod(shape)
    if end > len(data) or end - begin != count * dtype.itemsize:
        raise ValueError("a tensor's bytes are not as many as its shape needs")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=begin).reshape(shape)
