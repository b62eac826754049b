"""Tensors to bytes and back: safetensors, never a pickle."""

from __future__ import annotations

import torch  # noqa: F401  (the doctest uses it)
from safetensors import SafetensorError
from safetensors.torch import load, save

from common.errors import WireError
from common.params import Params


def encode(params: Params) -> bytes:
    """Return named tensors as a safetensors document."""
    return save({k: v.detach().cpu().contiguous() for k, v in params.items()})


def decode(data: bytes) -> Params:
    """Return the named tensors of a safetensors document, in the order of their names.

    Raises:
        WireError: the bytes are not such a document.

    >>> decode(encode({"w": torch.tensor([1.0, 2.0])}))["w"].tolist()
    [1.0, 2.0]
    """
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a type torch lacks
        raise WireError(
            f"the message's tensors cannot be read: {error}",
            remedy="use the same version of grandrounds on both sides",
        ) from None
    return {name: tensors[name] for name in sorted(tensors)}
