"""Similar cases: which are nearest in a model's space, and how often these are of the same class.

Search is exact, by scikit-learn, which is installed anyway: faiss and its approximate indexes pay
off beyond about a million cases, more than a hospital has.

These figures are computed on the patients themselves: they are for the hospital (or a simulation)
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.cohort.parts import Cohort, Part
from common.metric_spec import Distance, MetricSpec
from common.metrics import Array
from common.models import Classifier, features
from common.references import within
from common.seeds import derive

Labels = NDArray[np.int64]

KS = (1, 5, 10)
MOST = {"gallery": 2000, "queries": 500}  # records of a hospital that figures look at
COSINE: Distance = "cosine"  # of a model without a metric: a linear head sets no scale
_METRICS: dict[Distance, str] = {  # scikit-learn's names
    "cosine": "cosine",
    "euclidean": "euclidean",
    "squared_euclidean": "sqeuclidean",
    "manhattan": "manhattan",
}


@dataclass(frozen=True)
class Retrieval:
    """How well near cases tell a query's class; None where no query counts.

    Attributes:
        precision: k -> share of the k nearest that are of the query's class.
        recall: k -> share of the gallery's cases of that class that are among the k nearest. It
            cannot exceed k over their number. (What metric learning calls Recall@1 is precision
            at 1.)
        mean_average_precision: Mean over queries of average precision: of the precision at the
            place of each case of the query's class.
        chance: Precision of a random order, at any k: the class's share of the gallery.
        queries: How many queries count, in mass.
    """

    precision: dict[int, float | None]
    recall: dict[int, float | None]
    mean_average_precision: float | None
    chance: float | None
    queries: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; k is text there."""
        return {
            "precision": {str(k): value for k, value in self.precision.items()},
            "recall": {str(k): value for k, value in self.recall.items()},
            "map": self.mean_average_precision,
            "chance": self.chance,
            "queries": self.queries,
        }


def distance_of(metric: MetricSpec | None) -> Distance:
    """Return the distance of a study's space: that of its metric, or the cosine where it has none.

    >>> distance_of(None), distance_of(MetricSpec())
    ('cosine', 'squared_euclidean')
    """
    return COSINE if metric is None else metric.distance


def places(model: Classifier, x: Tensor, metric: MetricSpec | None) -> Array:
    """Return where inputs x lie in a model's space, (records, dim): what its last layer sees."""
    z = features(model, x)
    return (z if metric is None else within(z, metric.radius)).double().numpy()


def drawn(cohort: Cohort, *, seed: int) -> tuple[Part, Part]:
    """Return a hospital's gallery and its queries, at most `MOST` records, drawn at random.

    The gallery is of those who train, the queries are of the holdout: a patient is in one of the
    two, so nobody is found by another record of the same person.
    """
    found = []
    for part, (what, most) in zip((cohort.train, cohort.holdout), MOST.items(), strict=True):
        generator = torch.Generator().manual_seed(derive(seed, "retrieval", what))
        order = torch.randperm(len(part.y), generator=generator)[:most]
        found.append(part.select(order.sort().values))
    return found[0], found[1]


def nearest(
    gallery: np.ndarray, queries: np.ndarray, *, k: int, distance: Distance = COSINE
) -> tuple[NDArray[np.intp], Array]:
    """Return the k cases nearest to each query, the nearest first, exactly.

    Args:
        gallery: (cases, dim) features.
        queries: (queries, dim) features.
        k: How many; no more than there are cases come back.
        distance: Of the space.

    Returns:
        Their places in the gallery and their distances, each (queries, min(k, cases)).

    >>> nearest(np.array([[0.0], [3.0], [1.0]]), np.array([[0.9]]), k=2, distance="euclidean")[0]
    array([[2, 0]])
    """
    from sklearn.neighbors import NearestNeighbors  # half a second, for who asks for neighbours

    found = NearestNeighbors(algorithm="brute", metric=_METRICS[distance]).fit(_finite(gallery))
    distances, places = found.kneighbors(_finite(queries), n_neighbors=min(k, len(gallery)))
    return places, np.asarray(distances, dtype=np.float64)


def retrieval_figures(
    gallery_z: np.ndarray,
    gallery_y: Labels,
    query_z: np.ndarray,
    query_y: Labels,
    ks: Sequence[int] = KS,
    *,
    distance: Distance = COSINE,
    weights: np.ndarray | None = None,
) -> Retrieval:
    """Rank a gallery by its distance from each query, and judge the order by class.

    Args:
        gallery_z: (cases, dim) features of cases of other patients than the queries'.
        gallery_y: (cases,) their classes.
        query_z: (queries, dim).
        query_y: (queries,).
        ks: How many of the nearest to look at; of a smaller gallery all.
        distance: Of the space.
        weights: (queries,) mass of each query, 1 / (records of its patient); default 1.

    Queries of a class that the gallery lacks do not count. Average precision is scikit-learn's,
    by which cases at one distance share the last of their places.

    >>> z = np.array([[0.0], [1.0], [2.0]])
    >>> retrieval_figures(z, np.array([0, 1, 0]), np.array([[0.1]]), np.array([0]), ks=(1, 2),
    ...                   distance="euclidean").precision
    {1: 1.0, 2: 0.5}
    """
    from sklearn.metrics import label_ranking_average_precision_score, pairwise_distances

    mass = np.ones(len(query_y)) if weights is None else np.asarray(weights, dtype=np.float64)
    same = query_y[:, None] == gallery_y
    counted = same.any(axis=1) & (mass > 0)
    if not counted.any():
        return Retrieval(dict.fromkeys(ks), dict.fromkeys(ks), None, None, 0.0)
    same, mass = same[counted], mass[counted]
    away = pairwise_distances(
        _finite(query_z)[counted], _finite(gallery_z), metric=_METRICS[distance]
    )
    ranked = np.take_along_axis(same, away.argsort(axis=1, kind="stable"), axis=1)
    share = {k: ranked[:, :k].mean(axis=1) for k in ks}
    found = {k: ranked[:, :k].sum(axis=1) / same.sum(axis=1) for k in ks}
    return Retrieval(
        precision={k: float(np.average(values, weights=mass)) for k, values in share.items()},
        recall={k: float(np.average(values, weights=mass)) for k, values in found.items()},
        mean_average_precision=float(
            label_ranking_average_precision_score(same, -away, sample_weight=mass)
        ),
        chance=float(np.average(same.mean(axis=1), weights=mass)),
        queries=float(mass.sum()),
    )


def _finite(z: np.ndarray) -> Array:
    """Return features without what a diverged model makes of them: such a case lies at 0."""
    rows = np.asarray(z, dtype=np.float64)
    return np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, 0.0)
