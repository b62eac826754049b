"""The outer step: the mean of the hospitals' deltas as a pseudo-gradient for a server optimiser.

After Reddi et al. 2021, "Adaptive federated optimization": SGD, SGD with momentum (FedAvgM) and
Adam (FedAdam) on the negative mean delta. All of it is post-processing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.learners.types import Apply, Contribution, State
from common.params import Params, add, scale, subtract, weighted_sum
from common.study import ServerSpec


def mean_delta(contributions: Sequence[Contribution], *, weights: str) -> Params:
    """Return the weighted mean of the deltas, by declared size or equal.

    >>> import torch
    >>> one, three = (Contribution(n, {"w": torch.tensor([v])}) for n, v in [(1, 0.0), (3, 4.0)])
    >>> mean_delta([one, three], weights="declared")["w"].item()
    3.0
    """
    shares = shares_of(contributions, weights=weights)
    return weighted_sum([(s, c.delta) for s, c in zip(shares, contributions, strict=True)])


def shares_of(contributions: Sequence[Contribution], *, weights: str) -> list[float]:
    """Return each hospital's share in a mean, by declared size or equal; they sum to 1."""
    counts = [float(c.declared) if weights == "declared" else 1.0 for c in contributions]
    total = sum(counts)
    return [count / total for count in counts]


def server_step(spec: ServerSpec) -> Apply:
    """Return the function that moves the shared weights along the mean delta."""

    def apply(state: State, contributions: Sequence[Contribution]) -> State:
        return moved(spec, state, mean_delta(contributions, weights=spec.weights))

    return apply


def moved(spec: ServerSpec, state: State, delta: Params) -> State:
    """Return the state one round on, with its weights moved along `delta` by the optimiser."""
    direction, moments = _OPTIMIZERS[spec.optimizer](spec, state, delta)
    params = add(state.params, direction, scale=spec.learning_rate)
    return State(params=params, moments=moments, round=state.round + 1)


def decaying(apply: Apply, spec: ServerSpec, *, rounds: int) -> Apply:
    """Return `apply` with a step that shrinks as the study's server table says.

    'linear': round r of R moves 1 - (r - 1) / R as far as it would (Nichol et al. 2018 take it for
    Reptile). A public schedule: post-processing.
    """
    if spec.decay == "none":
        return apply

    def apply_less(state: State, contributions: Sequence[Contribution]) -> State:
        after, share = apply(state, contributions), 1 - state.round / rounds
        params, own = (
            add(old, subtract(new, old), scale=share)
            for old, new in ((state.params, after.params), (state.own, after.own))
        )
        return replace(after, params=params, own=own)

    return apply_less


def _sgd(spec: ServerSpec, state: State, delta: Params) -> tuple[Params, dict[str, Params]]:
    return delta, {}


def _momentum(spec: ServerSpec, state: State, delta: Params) -> tuple[Params, dict[str, Params]]:
    first = state.moments.get("first")
    velocity = delta if first is None else add(delta, first, scale=spec.momentum)
    return velocity, {"first": velocity}


def _adam(spec: ServerSpec, state: State, delta: Params) -> tuple[Params, dict[str, Params]]:
    """Adam with bias correction (Kingma and Ba 2015)."""
    square = {k: v * v for k, v in delta.items()}
    first = _blend(state.moments.get("first"), delta, spec.momentum)
    second = _blend(state.moments.get("second"), square, spec.beta2)
    step = state.round + 1
    m = scale(first, 1 / (1 - spec.momentum**step))
    v = scale(second, 1 / (1 - spec.beta2**step))
    direction = {k: m[k] / (v[k].sqrt() + spec.tau) for k in m}
    return direction, {"first": first, "second": second}


def _blend(old: Params | None, new: Params, beta: float) -> Params:
    fresh = scale(new, 1 - beta)
    return fresh if old is None else add(fresh, old, scale=beta)


_OPTIMIZERS = {"sgd": _sgd, "momentum": _momentum, "adam": _adam}
