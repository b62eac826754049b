"""Similar cases: hand-worked orders, agreement with another implementation, edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from common.cohort.parts import Cohort, Part
from common.metric_spec import MetricSpec
from common.models import features, made
from common.retrieval import MOST, distance_of, drawn, nearest, places, retrieval_figures
from common.study import ModelSpec


def line(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, None]


def classes(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_figures_equal_hand_derived_constants() -> None:
    # A gallery at 1, 2, 3, 4, 5 of classes a b a a b, and a query at 0 of class a: its order is the
    # gallery's. Of class a are ranks 1, 3 and 4, so precision at 1, 2, 3 is 1, 1/2, 2/3, recall
    # 1/3, 1/3, 2/3, and average precision (1 + 2/3 + 3/4) / 3 = 29/36.
    gallery = line(1, 2, 3, 4, 5), classes(0, 1, 0, 0, 1)
    found = retrieval_figures(*gallery, line(0), classes(0), (1, 2, 3), distance="euclidean")
    assert found.precision == pytest.approx({1: 1.0, 2: 1 / 2, 3: 2 / 3})
    assert found.recall == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 2 / 3})
    assert found.mean_average_precision == pytest.approx(29 / 36)
    assert found.chance == pytest.approx(3 / 5)
    # Another query at 6 of class b sees 5 4 3 2 1: ranks 1 and 4, so (1 + 2/4) / 2 = 3/4; and its
    # share of the gallery is 2/5. It is one of two images of its patient: half the mass.
    both = retrieval_figures(
        *gallery, line(0, 6), classes(0, 1), (2,), distance="euclidean", weights=np.array([1, 0.5])
    )
    assert both.precision[2] == pytest.approx((1 / 2 + 0.5 * 1 / 2) / 1.5)
    assert both.recall[2] == pytest.approx((1 / 3 + 0.5 * 1 / 2) / 1.5)
    assert both.mean_average_precision == pytest.approx((29 / 36 + 0.5 * 3 / 4) / 1.5)
    assert both.chance == pytest.approx((3 / 5 + 0.5 * 2 / 5) / 1.5)
    assert both.queries == 1.5


@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean", "manhattan", "cosine"])
def test_mean_average_precision_is_scikit_learns_query_by_query(distance: str) -> None:
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(size=(40, 2)), rng.normal(size=(9, 2))
    y, own = rng.integers(0, 3, 40), rng.integers(0, 3, 9)
    away = {
        "euclidean": lambda a, b: np.sqrt(((a - b) ** 2).sum()),
        "squared_euclidean": lambda a, b: ((a - b) ** 2).sum(),
        "manhattan": lambda a, b: np.abs(a - b).sum(),
        "cosine": lambda a, b: 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b),
    }[distance]
    each = [
        average_precision_score(y == c, [-away(g, q) for g in gallery])
        for q, c in zip(queries, own, strict=True)
    ]
    found = retrieval_figures(gallery, y, queries, own, distance=distance)  # type: ignore[arg-type]
    assert found.mean_average_precision == pytest.approx(np.mean(each), abs=1e-9)


def test_cases_at_one_distance_share_the_last_of_their_places() -> None:
    # From 0 both lie at 1, so the one of the query's class is on place 2 whichever comes first.
    for own in (0, 1):
        found = retrieval_figures(
            line(-1, 1), classes(0, 1), line(0), classes(own), distance="manhattan"
        )
        assert found.mean_average_precision == 0.5


def test_the_order_is_the_distances_own() -> None:
    # Seen from (1, 0): (9, 1) has nearly its direction and (1, .9) is near it.
    gallery, query = np.array([[9.0, 1.0], [1.0, 0.9]]), np.array([[1.0, 0.0]])
    assert nearest(gallery, query, k=1, distance="cosine")[0].tolist() == [[0]]
    assert nearest(gallery, query, k=1, distance="euclidean")[0].tolist() == [[1]]
    # Seen from 0: (3, 3) is nearer than (5, 0) in a straight line, and farther by the streets.
    gallery, query = np.array([[3.0, 3.0], [5.0, 0.0]]), np.zeros((1, 2))
    assert nearest(gallery, query, k=1, distance="squared_euclidean")[1].tolist() == [[18.0]]
    assert nearest(gallery, query, k=1, distance="manhattan")[0].tolist() == [[1]]


def test_more_than_there_are_gives_all() -> None:
    places_, away = nearest(line(0, 1), line(0.2), k=10, distance="euclidean")
    assert places_.tolist() == [[0, 1]]
    assert away[0] == pytest.approx([0.2, 0.8])
    found = retrieval_figures(line(0, 1), classes(0, 1), line(0.2), classes(0), (10,))
    assert (found.precision[10], found.recall[10]) == (0.5, 1.0)


def test_a_query_without_its_class_in_the_gallery_does_not_count() -> None:
    gallery = line(0, 1), classes(0, 0)
    both = retrieval_figures(*gallery, line(0, 1), classes(0, 1), (1,), distance="euclidean")
    assert (both.queries, both.precision[1]) == (1.0, 1.0)
    none = retrieval_figures(*gallery, line(0), classes(1))
    assert none.to_json() == {
        "precision": {"1": None, "5": None, "10": None},
        "recall": {"1": None, "5": None, "10": None},
        "map": None,
        "chance": None,
        "queries": 0.0,
    }


def test_what_a_diverged_model_makes_of_a_case_is_no_error() -> None:
    z = np.array([[np.nan, 1.0], [np.inf, 0.0], [1.0, 1.0]])
    found = retrieval_figures(z, classes(0, 1, 0), z, classes(0, 1, 0), distance="euclidean")
    assert found.mean_average_precision is not None
    assert nearest(z, z, k=1, distance="cosine")[0].shape == (3, 1)


def test_a_place_is_what_the_last_layer_sees_drawn_in_to_the_radius() -> None:
    model = made(ModelSpec(name="mlp", hidden=(4,)), (3,), 2, seed=0)
    x = 100 * torch.eye(3)
    plain = places(model, x, None)
    np.testing.assert_array_equal(plain, features(model, x).numpy())
    metric = MetricSpec(radius=0.5)
    lengths = np.linalg.norm(places(model, x, metric), axis=1)
    assert lengths == pytest.approx(np.minimum(np.linalg.norm(plain, axis=1), 0.5))
    assert (distance_of(None), distance_of(metric)) == ("cosine", "squared_euclidean")


def test_of_many_records_so_many_are_drawn_and_always_the_same() -> None:
    many = MOST["gallery"] + 7
    part = Part(torch.arange(many)[:, None].float(), torch.zeros(many), torch.arange(many), many)
    few = Part(torch.zeros(3, 1), torch.zeros(3), torch.tensor([0, 0, 1]), 2)
    cohort = Cohort("a", many, part, few)
    gallery, queries = drawn(cohort, seed=1)
    assert len(gallery.y) == MOST["gallery"]
    assert (len(queries.y), queries.patients) == (3, 2)
    assert torch.equal(drawn(cohort, seed=1)[0].x, gallery.x)
    assert not torch.equal(drawn(cohort, seed=2)[0].x, gallery.x)
