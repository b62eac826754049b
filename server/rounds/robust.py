"""What the coordinator does against lying hospitals: a bound on norms, and Flower's aggregations.

Everything here is post-processing of what hospitals released: norms say nothing more of a patient.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, Krum, Strategy

from common.learners.types import Contribution
from common.params import Params, flatten, scale
from common.study import ServerSpec

_WEIGHT = "num-examples"  # the name that Flower's strategies give to a reply's weight


def norm_of(delta: Params) -> float:
    """Return the L2 norm over all tensors, in float64.

    >>> round(norm_of({"w": torch.tensor([3e30]), "b": torch.tensor([4e30])}) / 1e30, 5)
    5.0
    """
    return float(torch.linalg.vector_norm(flatten(delta).to(torch.float64)))


def bounded(delta: Params, *, norm: float, bound: float | None) -> tuple[Params, bool]:
    """Scale a delta down to the bound on its L2 norm, and say whether it was above it.

    After Sun et al. 2019, "Can you really backdoor federated learning?".

    >>> bounded({"w": torch.tensor([3.0, 4.0])}, norm=5.0, bound=2.5)
    ({'w': tensor([1.5000, 2.0000])}, True)
    """
    if bound is None or norm <= bound:
        return delta, False
    return scale(delta, bound / norm), True


def combine(contributions: Sequence[Contribution], spec: ServerSpec) -> list[Contribution]:
    """Return what the learner's `apply` is handed: all contributions, or the one that bears liars.

    The median (Yin et al. 2018), the trimmed mean (the same) and Krum (Blanchard et al. 2017) are
    Flower's own strategies. They expect full weights; all three commute with a shift, so deltas do
    as well, without the rounding of adding and taking away the shared weights. They give every
    hospital the same weight: a declared size could otherwise buy a lie its majority.

    Args:
        contributions: Finite deltas of one shape, at least as many as `spec.liars` needs.
        spec: The study's server table.
    """
    if spec.aggregation == "mean":
        return list(contributions)
    strategy = _strategy(spec, len(contributions))
    like = contributions[0].delta
    with _quiet():
        arrays, _ = strategy.aggregate_train(0, [_message(c.delta) for c in contributions])
    assert arrays is not None  # only without replies
    values = {k: torch.from_numpy(np.array(arrays[k].numpy())).to(v.dtype) for k, v in like.items()}
    return [Contribution(1, values)]


def _strategy(spec: ServerSpec, members: int) -> Strategy:
    if spec.aggregation == "median":
        return FedMedian()
    if spec.aggregation == "krum":
        return Krum(num_malicious_nodes=spec.liars)
    # It cuts int(beta * n) at each end, and wants beta below .5 where n is 2 f + 1.
    return FedTrimmedAvg(beta=(spec.liars + 0.25) / members)


def _message(delta: Params) -> Message:
    """Return a reply as Flower's strategies read it; float64, for Krum squares and subtracts."""
    arrays = {k: Array(np.asarray(v.detach().cpu().to(torch.float64))) for k, v in delta.items()}
    content = RecordDict({"delta": ArrayRecord(arrays), "metrics": MetricRecord({_WEIGHT: 1})})
    return Message(content, dst_node_id=1, message_type=MessageType.TRAIN)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower's line for each aggregation off the terminal."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
