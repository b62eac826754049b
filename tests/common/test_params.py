"""The algebra of weights: values by hand, arguments left alone, misfits named."""

import pytest
import torch

from common.params import (
    add,
    flatten,
    misfit,
    scale,
    subtract,
    unflatten,
    weighted_sum,
    zeros_like,
)


def params(*values):
    one, two, three = map(float, values)
    return {"w": torch.tensor([[one, two]]), "b": torch.tensor([three])}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_algebra_by_hand():
    a, b = params(1, 2, 3), params(10, 20, 30)
    assert same(add(a, b), params(11, 22, 33))
    assert same(add(a, b, scale=-0.5), params(-4, -8, -12))
    assert same(subtract(b, a), params(9, 18, 27))
    assert same(scale(a, -2), params(-2, -4, -6))
    assert same(zeros_like(a), params(0, 0, 0))
    assert same(weighted_sum([(0.25, a), (0.5, b)]), params(5.25, 10.5, 15.75))


def test_nothing_writes_into_its_arguments():
    a, b = params(1, 2, 3), params(10, 20, 30)
    results = [add(a, b), subtract(a, b), scale(a, 3), zeros_like(a), weighted_sum([(1.0, a)])]
    for result in results:
        for value in result.values():
            value.fill_(-99)
    assert same(a, params(1, 2, 3))
    assert same(b, params(10, 20, 30))


def test_weighted_sum_adds_in_float64_and_returns_the_type_it_got():
    # In float32, 1e8 + 1 - 1e8 is 0.
    terms = [(1.0, {"w": torch.tensor([v])}) for v in (1e8, 1.0, -1e8)]
    total = weighted_sum(terms)["w"]
    assert total.item() == 1.0
    assert total.dtype == torch.float32
    with pytest.raises(ValueError, match="at least one"):
        weighted_sum([])


def test_flatten_and_unflatten_are_inverse():
    a = params(1, 2, 3)
    assert flatten(a).tolist() == [1, 2, 3]
    assert same(unflatten(flatten(a), a), a)
    with pytest.raises((ValueError, RuntimeError)):
        unflatten(torch.zeros(4), a)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"extra": torch.zeros(1)}, "names differ: ['extra']"),
        ({"b": torch.zeros(2)}, "'b' is torch.float32 (2,), expected torch.float32 (1,)"),
        ({"b": torch.zeros(1).double()}, "torch.float64"),
        ({"b": torch.tensor([float("inf")])}, "'b' holds values that are not finite"),
        ({"w": torch.tensor([[0.0, float("nan")]])}, "'w' holds values that are not finite"),
    ],
)
def test_misfit_names_what_is_wrong(change, said):
    like = params(0, 0, 0)
    assert said in misfit({**like, **change}, like)


def test_misfit_of_what_fits_is_none_whatever_the_order():
    like = params(0, 0, 0)
    assert misfit(dict(reversed(like.items())), like) is None
    assert "names differ: ['b']" in misfit({"w": like["w"]}, like)
