"""Aggregations that bear liars: Flower's own on deltas, against constants by hand."""

from __future__ import annotations

import math

import pytest
import torch

from common.learners.types import Contribution
from common.params import Params
from common.study import ServerSpec, most_liars
from server.rounds.robust import bounded, combine, norm_of
from simulations.grid import InProcessGrid


@pytest.fixture(autouse=True)
def server_process() -> None:
    # Flower's strategies read messages, which only a process that has an identity may build.
    InProcessGrid(lambda message, context: message, nodes={}, run_config={})


def deltas(*rows: tuple[float, ...], declared: int = 10) -> list[Contribution]:
    """Return a matrix and a scalar from each row: shapes (1, n - 1) and ()."""
    return [
        Contribution(declared, {"w": torch.tensor([row[:-1]]), "b": torch.tensor(row[-1])})
        for row in rows
    ]


def only(found: list[Contribution]) -> Params:
    [contribution] = found
    return contribution.delta


ROWS = deltas(
    (1.0, 2.0, 0.0), (2.0, 3.0, 1.0), (1e30, -1e30, 1e38), (1.5, 2.0, 2.0), (0.0, 4.0, 3.0)
)


def test_the_median_is_taken_weight_by_weight() -> None:
    # Columns: 0 1 1.5 2 1e30; -1e30 2 2 3 4; 0 1 2 3 1e38.
    value = only(combine(ROWS, ServerSpec(aggregation="median")))
    assert value["w"].tolist() == [[1.5, 2.0]]
    assert value["b"].item() == 2.0
    assert [value[k].shape for k in value] == [(1, 2), ()]
    assert value["w"].dtype == torch.float32


@pytest.mark.parametrize(
    ("liars", "expected", "bias"),
    [(1, [(1 + 1.5 + 2) / 3, (2 + 2 + 3) / 3], (1 + 2 + 3) / 3), (2, [1.5, 2.0], 2.0)],
)
def test_the_trimmed_mean_cuts_exactly_its_liars_at_each_end(
    liars: int, expected: list[float], bias: float
) -> None:
    # With 2 of 5 it is the median, at the very edge of what Flower's share allows.
    value = only(combine(ROWS, ServerSpec(aggregation="trimmed_mean", liars=liars)))
    assert value["w"][0].tolist() == pytest.approx(expected)
    assert value["b"].item() == pytest.approx(bias)


@pytest.mark.parametrize("members", range(3, 40))
def test_the_trimmed_mean_takes_as_many_liars_as_it_can_bear(members: int) -> None:
    most = most_liars("trimmed_mean", members)
    rows = deltas(*[(0.0, float(n)) for n in range(members)])
    value = only(combine(rows, ServerSpec(aggregation="trimmed_mean", liars=most)))
    assert value["b"].item() == (members - 1) / 2


def test_krum_takes_one_delta_near_the_others() -> None:
    # f = 1, n = 5: squared distances to the two nearest. (0,0): 1+4; (1,0): 1+1; (2,0): 1+4.
    rows = deltas((0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (1e30, 0.0), (9.0, 9.0))
    value = only(combine(rows, ServerSpec(aggregation="krum", liars=1)))
    assert value["w"].tolist() == [[1.0]]


def test_krum_is_not_misled_by_float32() -> None:
    # The squares of 1e4 have no room for the .01 between hospitals; Flower multiplies them out.
    rows = deltas(*[(1e4 + d, 0.0) for d in (0.0, 0.015625, 0.03125, 0.046875, 8.0)])
    value = only(combine(rows, ServerSpec(aggregation="krum", liars=1)))
    assert value["w"].item() in (1e4 + 0.015625, 1e4 + 0.03125)


def test_a_declared_size_buys_no_vote() -> None:
    honest = deltas((1.0, 1.0), (1.0, 1.0))
    loud = deltas((9.0, 9.0), declared=10**9)
    for spec in (
        ServerSpec(aggregation="median"),
        ServerSpec(aggregation="trimmed_mean", liars=1),
        ServerSpec(aggregation="krum"),
    ):
        assert only(combine([*loud, *honest], spec))["b"].item() == 1.0


def test_a_mean_is_left_to_the_learner() -> None:
    assert combine(ROWS, ServerSpec()) == ROWS


def test_the_contributions_are_left_alone() -> None:
    before = [{k: v.clone() for k, v in c.delta.items()} for c in ROWS]
    for spec in (ServerSpec(aggregation="median"), ServerSpec(aggregation="krum", liars=1)):
        combine(ROWS, spec)
    for contribution, kept in zip(ROWS, before, strict=True):
        assert all(torch.equal(contribution.delta[k], v) for k, v in kept.items())


@pytest.mark.parametrize(
    ("bound", "length", "was_long"), [(None, 5.0, False), (5.0, 5.0, False), (1.0, 1.0, True)]
)
def test_a_norm_above_the_bound_is_scaled_to_it(
    bound: float | None, length: float, was_long: bool
) -> None:
    delta = {"w": torch.tensor([[3.0]]), "b": torch.tensor(-4.0)}
    found, long = bounded(delta, norm=norm_of(delta), bound=bound)
    assert norm_of(found) == pytest.approx(length, rel=1e-6)
    assert found["w"].item() / found["b"].item() == pytest.approx(-3 / 4)
    assert long is was_long


def test_the_norm_of_the_largest_floats_is_finite() -> None:
    # The square of 1e38 is beyond float32.
    assert norm_of({"w": torch.full((4,), 1e38)}) == pytest.approx(2e38)
    assert math.isfinite(norm_of({"w": torch.full((4,), torch.finfo(torch.float32).max)}))


@pytest.mark.parametrize(
    ("aggregation", "by_members"),
    [
        ("mean", {2: 0, 9: 0}),
        ("median", {2: 0, 3: 1, 4: 1, 5: 2}),
        ("trimmed_mean", {2: 0, 3: 1, 4: 1, 5: 2}),
        ("krum", {2: -1, 3: 0, 4: 0, 5: 1, 6: 1, 7: 2}),
    ],
)
def test_how_many_liars_each_choice_bears(aggregation: str, by_members: dict[int, int]) -> None:
    assert {n: most_liars(aggregation, n) for n in by_members} == by_members  # type: ignore[arg-type]


@pytest.mark.parametrize("members", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("aggregation", ["median", "trimmed_mean", "krum"])
def test_as_many_liars_as_it_bears_do_not_carry_the_aggregate_away(
    aggregation: str, members: int
) -> None:
    # Honest values lie in [0, 1]; colluding liars all say 1e6.
    liars = most_liars(aggregation, members)  # type: ignore[arg-type]
    if aggregation == "trimmed_mean" and liars == 0:
        return
    rng = torch.Generator().manual_seed(3)
    honest = [(float(torch.rand((), generator=rng)), 0.0) for _ in range(members - liars)]
    spec = ServerSpec(aggregation=aggregation, liars=liars)
    value = only(combine(deltas(*honest, *[(1e6, 0.0)] * liars), spec))
    assert 0 <= value["w"].item() <= 1
