"""Classifiers of a few labelled cases: worked by hand, and against scikit-learn's own."""

import math

import pytest
import torch
from scipy.optimize import minimize

from common.errors import DataError
from common.transfer.cases import Cases
from common.transfer.heads import HEADS, machine, prototypes, regression, scaled


def cases(*, ways=3, shots=5, dim=4, seed=0, apart=3.0):
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(ways).repeat_interleave(shots)
    x = torch.randn(ways * shots, dim, generator=rng)
    x[torch.arange(len(y)), y] += apart
    return Cases(x, y, ways)


@pytest.mark.parametrize("ways", [2, 3])
@pytest.mark.parametrize("name", HEADS)
def test_each_head_tells_classes_apart_that_lie_apart(name, ways):
    few, queries = cases(ways=ways), cases(ways=ways, shots=40, seed=1)
    found = HEADS[name](few, queries.x, 0)
    assert found.shape == (40 * ways, ways)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.sum(1), torch.ones(40 * ways, dtype=torch.float64))
    assert (found.argmax(1) == queries.y).double().mean() > 0.85
    assert torch.equal(found, HEADS[name](few, queries.x, 0))


@pytest.mark.parametrize("name", HEADS)
def test_what_is_said_of_a_query_does_not_depend_on_the_others(name):
    few, queries = cases(), cases(shots=4, seed=1).x
    together = HEADS[name](few, queries, 0)
    alone = torch.cat([HEADS[name](few, q[None], 0) for q in queries])
    torch.testing.assert_close(together, alone)


def test_prototypes_by_hand():
    # Means (1, 0) and (0, 2); the query (1, 2) is 2 from the one and 1 from the other.
    few = Cases(torch.tensor([[0.0, 0], [2, 0], [0, 2]]), torch.tensor([0, 0, 1]), 2)
    query = torch.tensor([[1.0, 2.0]])
    for distance, (d0, d1) in {
        "euclidean": (2, 1),
        "squared_euclidean": (4, 1),
        "manhattan": (2, 1),
        "cosine": (1 - 1 / math.sqrt(5), 1 - 2 / math.sqrt(5)),
    }.items():
        expected = math.exp(-d0) / (math.exp(-d0) + math.exp(-d1))
        assert prototypes(distance)(few, query, 0)[0, 0].item() == pytest.approx(expected)


def test_regression_minimises_its_stated_loss():
    """The sum of cross-entropies plus |W|^2 / (2 C), intercepts free, found by another solver."""
    few = cases(shots=4, apart=1.0)
    query = cases(shots=2, seed=1).x
    rows, queries = (torch.from_numpy(v) for v in scaled(few.x, query, "whole"))

    def loss(flat):
        w = torch.tensor(flat).reshape(3, 5)
        logits = rows @ w[:, :4].T + w[:, 4]
        value = torch.nn.functional.cross_entropy(logits, few.y, reduction="sum")
        return float(value + w[:, :4].square().sum() / (2 * 0.5))

    w = torch.tensor(minimize(loss, [0.0] * 15, tol=1e-12).x).reshape(3, 5)
    expected = (queries @ w[:, :4].T + w[:, 4]).softmax(1)
    found = regression(strength=0.5)(few, query, 0)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_rows_are_scaled_by_the_labelled_ones_alone():
    few = torch.tensor([[1.0, 10.0, 5.0], [3.0, 10.0, 9.0]])  # mean (2, 10, 7), spreads 1, 0, 2
    other = torch.tensor([[4.0, 11.0, 7.0]])
    columns = scaled(few, other, "columns")
    assert columns[0].tolist() == [[-1, 0, -1], [1, 0, 1]]
    assert columns[1].tolist() == [[2, 1, 0]]
    whole = scaled(few, other, "whole")[1][0] * math.sqrt(5)
    assert whole.tolist() == pytest.approx([2, 1, 0])
    assert scaled(few, other, "none")[1].tolist() == other.tolist()


def test_equal_rows_are_no_division_by_zero():
    few = Cases(torch.ones(4, 3), torch.tensor([0, 0, 1, 1]), 2)
    for head in (regression(), machine(), prototypes()):
        torch.testing.assert_close(
            head(few, torch.ones(1, 3), 0), torch.full((1, 2), 0.5).double(), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(
    ("y", "ways", "words"),
    [
        ([0, 0, 0], 2, "class 1 has no labelled case"),
        ([0, 1, 3], 3, "a labelled case is of class 3"),
        ([0, 0, 0], 1, "nothing to tell apart"),
        ([-1, 0, 1], 2, "of class -1"),
    ],
)
def test_cases_that_decide_nothing_are_refused(y, ways, words):
    with pytest.raises(DataError, match=words):
        Cases(torch.zeros(3, 2), torch.tensor(y), ways)
