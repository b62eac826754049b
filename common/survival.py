"""Time to an event that not every patient has met: codes, outcomes, losses, the concordance index.

A patient is seen up to a time: until the event, or until observation ended without it (censored).
Both are one whole number, 2 * time + event, with the time in whole units of its column (days), so
that what learns from classes learns from times unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.objectives import Objective

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

CENSORED = -1
"""The outcome of a patient of whom the horizon is not known."""


class Hazards(nn.Linear):
    """A last layer of one score a record and an intercept for each interval.

    Its outputs, (records, intervals), are the logits of the hazards: the score shifts all of them
    alike (proportional odds; Cox 1972, section 6), so it costs no more weights than one output.

    Args:
        features: Width of what it sees.
        intervals: How many there are.
    """

    def __init__(self, features: int, intervals: int) -> None:
        super().__init__(features, 1)
        self.bias = nn.Parameter(torch.zeros(intervals))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the hazards of x: (records, features)."""
        return F.linear(x, self.weight) + self.bias


def encode(times: NDArray[np.int64], events: NDArray[np.int64]) -> Codes:
    """Return 2 * time + event, (records,); times are whole and not negative, events 0 or 1.

    >>> encode(np.array([5, 7]), np.array([1, 0])).tolist()
    [11, 14]
    """
    return 2 * times + events


def decode(codes: NDArray[np.int64]) -> tuple[Codes, NDArray[np.bool_]]:
    """Return the times and whether each ended with the event; the inverse of `encode`."""
    return codes // 2, codes % 2 == 1


def by_horizon(codes: NDArray[np.int64], horizon: float) -> Codes:
    """Return 1 for an event up to the horizon, 0 for none, CENSORED where nobody can say.

    >>> by_horizon(encode(np.array([5, 9, 5, 10]), np.array([1, 1, 0, 0])), 8).tolist()
    [1, 0, -1, 0]
    """
    times, events = decode(codes)
    return np.where(events & (times <= horizon), 1, np.where(times >= horizon, 0, CENSORED))


def discrete_time(edges: Sequence[float], horizon: float) -> Objective:
    """Return the likelihood of events in intervals of time, a record at a time.

    The intervals are (0, e_1], (e_1, e_2], ..., and h_j, the sigmoid of output j, is the hazard:
    the probability of the event in interval j of who reached it. For a record that had the event in
    interval k, or of which it is known that k - 1 intervals passed without it, the loss is

        - sum_{j < k} log(1 - h_j)  -  [event in k] log h_k

    (Gensheimer and Narasimhan 2019; censored inside an interval, a record says nothing of it, as in
    Kvamme and Borgan 2021). An event after the last interval is its absence up to there.

    Guarantees
        A record's loss depends on no other record, so that a patient's gradient can be bounded and
        the price is that of any other objective.

    Args:
        edges: e_1 < e_2 < ..., the ends of the intervals, declared before any patient is read.
        horizon: Up to which of them probabilities are told: (no event, event) up to it.
    """
    ends = torch.tensor([float(edge) for edge in edges], dtype=torch.float64)
    shown = sum(edge <= horizon for edge in edges)

    def losses(outputs: Tensor, y: Tensor) -> Tensor:
        time, event = (y // 2).double(), y % 2 == 1
        own = ends.to(y.device)
        passed = torch.where(
            event,
            torch.bucketize(time, own),  # ends before the event
            torch.bucketize(time, own, right=True),  # ends up to where observation ended
        )
        interval = torch.arange(outputs.shape[1], device=y.device)
        survived = (interval < passed[:, None]).to(outputs)
        met = ((interval == passed[:, None]) & event[:, None]).to(outputs)
        return (survived * F.softplus(outputs) + met * F.softplus(-outputs)).sum(1)

    def probabilities(outputs: Tensor) -> Tensor:
        free = torch.exp(-F.softplus(outputs[:, :shown]).sum(1))
        return torch.stack([free, 1 - free], dim=1)

    return Objective("discrete_time", losses, probabilities)


def _cox_losses(outputs: Tensor, y: Tensor) -> Tensor:
    score, time, event = outputs[:, 0], y // 2, y % 2 == 1
    order = torch.argsort(time, descending=True)
    later = torch.logcumsumexp(score[order], 0)
    # Of those with the same time each is in the others' risk set: the last of them has seen all.
    last = torch.searchsorted(-time[order], -time, right=True) - 1
    return (later[last] - score) * event.to(score)


def _ranked(outputs: Tensor) -> Tensor:
    p = outputs[:, 0].sigmoid()
    return torch.stack([1 - p, p], dim=1)


COX = Objective("cox", _cox_losses, _ranked, whole_batch=True)
"""Cox's partial likelihood (1972; ties as in Breslow 1974), of one score a record.

For each event, minus the log of the share that its hazard exp(score) has among all of the batch who
are still observed then. Each term holds many patients, so no patient's part can be bounded: there
is no private form. The baseline hazard drops out, so scores rank patients and tell no probability:
`probabilities` are the sigmoids of the scores, in the order of the risks.
"""


def c_index(codes: NDArray[np.int64], risks: Floats, weights: Floats | None = None) -> float | None:
    """Return the concordance index: how often who had the event earlier had the higher risk.

    A pair counts if one had the event while the other was still observed: later, or censored at the
    same time. Equal risks count half. Two events at the same time are no pair. (Harrell et al.
    1982; ties as in lifelines 0.30, `concordance_index` of minus the risk.)

    Args:
        codes: (records,) as `encode`.
        risks: (records,) higher means earlier.
        weights: (records,) mass of each; a pair weighs the product. Default 1.

    Returns:
        0 to 1; None without any pair.

    >>> codes = encode(np.array([1, 2, 3]), np.array([1, 1, 0]))
    >>> c_index(codes, np.array([0.9, 0.2, 0.2]))
    0.8333333333333334
    """
    times, events = decode(codes)
    mass = np.ones(len(codes)) if weights is None else weights
    pairs = right = 0.0
    for first in np.flatnonzero(events):
        behind = (times > times[first]) | ((times == times[first]) & ~events)
        order = np.sign(risks[first] - risks[behind]) / 2 + 0.5
        pairs += mass[first] * mass[behind].sum()
        right += mass[first] * (mass[behind] @ order)
    return float(right / pairs) if pairs > 0 else None
