"""The algebra of weights: everything a learner does to parameters, in one place.

`Params` maps a parameter's name to its tensor. Functions return new values and never write into
their arguments (after Nichol et al.'s `variables.py`, supervised-reptile).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

Params = dict[str, Tensor]


def zeros_like(a: Params) -> Params:
    """Return zeros of the same names, shapes and types."""
    return {k: torch.zeros_like(v) for k, v in a.items()}


def add(a: Params, b: Params, *, scale: float = 1.0) -> Params:
    """Return `a + scale * b`; what `b` does not name (a frozen body) stays as it is in `a`.

    Raises:
        KeyError: `b` names what `a` does not.

    >>> add({"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}, scale=0.5)["w"].item()
    2.0
    """
    if not b.keys() <= a.keys():
        raise KeyError(*sorted(b.keys() - a.keys()))
    return {k: v + scale * b[k] if k in b else v for k, v in a.items()}


def subtract(a: Params, b: Params) -> Params:
    """Return `a - b`."""
    return {k: v - b[k] for k, v in a.items()}


def only(a: Params, names: Iterable[str]) -> Params:
    """Return those of `a` that are named, in the order of the names."""
    return {k: a[k] for k in names}


def scale(a: Params, factor: float) -> Params:
    """Return `factor * a`."""
    return {k: factor * v for k, v in a.items()}


def weighted_sum(terms: Sequence[tuple[float, Params]]) -> Params:
    """Return the sum of `weight * params`, added in the order given (float64 inside).

    Raises:
        ValueError: there are no terms.
    """
    if not terms:
        raise ValueError("weighted_sum needs at least one term")
    first = terms[0][1]
    total = {k: torch.zeros(v.shape, dtype=torch.float64) for k, v in first.items()}
    for weight, params in terms:
        for k, v in params.items():
            total[k] += weight * v.to(torch.float64)
    return {k: total[k].to(v.dtype) for k, v in first.items()}


def flatten(a: Params) -> Tensor:
    """Return all values as one vector, (parameters,), in the order of the names."""
    return torch.cat([v.reshape(-1) for v in a.values()])


def unflatten(vector: Tensor, like: Params) -> Params:
    """Return `vector` (parameters,) cut into the shapes of `like`.

    >>> p = {"w": torch.ones(2, 1), "b": torch.zeros(1)}
    >>> [tuple(v.shape) for v in unflatten(flatten(p), p).values()]
    [(2, 1), (1,)]
    """
    pieces = torch.split(vector, [v.numel() for v in like.values()])
    return {k: p.reshape(v.shape) for (k, v), p in zip(like.items(), pieces, strict=True)}


def misfit(candidate: Params, like: Params) -> str | None:
    """Say how `candidate` fails to be a finite value of the shape of `like`, or None if it fits.

    >>> misfit({"w": torch.tensor([float("nan")])}, {"w": torch.zeros(1)})
    "'w' holds values that are not finite"
    """
    if candidate.keys() != like.keys():
        return f"names differ: {sorted(candidate.keys() ^ like.keys())}"
    for name, value in candidate.items():
        if value.shape != like[name].shape or value.dtype != like[name].dtype:
            return (
                f"{name!r} is {value.dtype} {tuple(value.shape)}, "
                f"expected {like[name].dtype} {tuple(like[name].shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            return f"{name!r} holds values that are not finite"
    return None


def head_of(params: Mapping[str, Tensor]) -> frozenset[str]:
    """Return the names of the last layer's weights; the others are the body.

    >>> names = ("body.1.weight", "body.1.bias", "body.3.weight", "body.3.bias")
    >>> sorted(head_of({name: torch.zeros(1) for name in names}))
    ['body.3.bias', 'body.3.weight']
    """
    last = [*params][-1].rpartition(".")[0]
    return frozenset(name for name in params if name.rpartition(".")[0] == last)
