"""Losses over the pairs and triplets of an episode, from pytorch-metric-learning.

They couple cases, so they have no private form by patient; against released references each case
stands alone (`common.objectives`).
"""

from __future__ import annotations

from collections.abc import Callable

from pytorch_metric_learning import distances, losses, miners, reducers
from torch import Tensor

from common.metric_spec import MetricSpec
from common.references import DISTANCES

OfPlaces = Callable[[Tensor, Tensor], Tensor]
"""(places (n, dim), classes (n,)) -> loss."""


class _Distance(distances.BaseDistance):  # type: ignore[misc]  # the library ships no types
    """A distance of `common.references`, as the library takes it."""

    def __init__(self, metric: MetricSpec) -> None:
        super().__init__(normalize_embeddings=False)
        self._metric = metric

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        far = DISTANCES[self._metric.distance]
        return far(query_emb, query_emb if ref_emb is None else ref_emb) / self._metric.temperature


class _Contrastive(losses.ContrastiveLoss):  # type: ignore[misc]
    """The library's, with squares where the form has them."""

    def __init__(self, metric: MetricSpec) -> None:
        super().__init__(
            pos_margin=0,
            neg_margin=metric.margin,
            distance=_Distance(metric),
            reducer=reducers.MeanReducer(),
        )
        self._power = 2 if metric.form == "squared" else 1

    def get_per_pair_loss(self, pair_dists: Tensor, pos_or_neg: str) -> Tensor:
        loss: Tensor = super().get_per_pair_loss(pair_dists, pos_or_neg)
        return loss.pow(self._power) / 2


def contrastive_pairs(metric: MetricSpec) -> OfPlaces:
    """Return 1/2 (mean of d^p over like pairs + mean of max(0, m - d)^p over unlike ones).

    p is 2 for the form 'squared' (Hadsell, Chopra and LeCun 2006) and 1 for 'distance'.

    >>> import torch
    >>> loss = contrastive_pairs(MetricSpec(loss="contrastive", distance="euclidean"))
    >>> round(loss(torch.tensor([[0.0], [0.5]]), torch.tensor([0, 1])).item(), 3)
    0.125
    """
    loss: OfPlaces = _Contrastive(metric)
    return loss


def semi_hard_triplets(metric: MetricSpec) -> OfPlaces:
    """Return the mean of max(0, d_ap - d_an + m) over triplets with a semi-hard negative.

    Semi-hard: d_ap < d_an < d_ap + m (Schroff, Kalenichenko and Philbin 2015). 0 without any.
    """
    far = _Distance(metric)
    mine = miners.TripletMarginMiner(
        margin=metric.margin, type_of_triplets="semihard", distance=far
    )
    loss = losses.TripletMarginLoss(
        margin=metric.margin, distance=far, reducer=reducers.MeanReducer()
    )

    def of(places: Tensor, y: Tensor) -> Tensor:
        found: Tensor = loss(places, y, mine(places, y))
        return found

    return of
