"""Effects from released tables: intervals that cover, noise in the variance, what is too noisy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.meta.released import Released, means_effect
from common.meta.released_tables import table_effect, table_interval, table_statistic

DRAWS = 2000
Z2 = 1.959964**2

# Patients and risk of treated and control; the smallest expected cell is 5 or more.
TABLES = {
    "smallest cell 5": (60, 0.0834, 60, 0.17),
    "no effect, 5": (50, 0.1, 50, 0.1),
    "all cells 5": (10, 0.5, 10, 0.5),
    "unequal arms": (30, 0.2, 60, 0.1),
    "very unequal risks": (500, 0.01, 500, 0.1),
    "the trial's largest": (206, 0.0728, 207, 0.1256),
}
SIGMAS = (0.3, 1.17, 3.01, 5.5)  # 1.17 and 3.01: epsilon 3 and 1 at delta 2e-4


def truth(measure, p1, p2):
    odds = p1 / (1 - p1) / (p2 / (1 - p2))
    return {"OR": odds, "RR": p1 / p2, "RD": p1 - p2}[measure]


def noisy_tables(shape, sigma, rng):
    """Return (DRAWS, 4): a, b, c, d of hospitals drawn from the same risks, with noise."""
    n1, p1, n2, p2 = shape
    a, c = rng.binomial(n1, p1, DRAWS), rng.binomial(n2, p2, DRAWS)
    return np.stack([a, n1 - a, c, n2 - c], 1) + sigma * rng.normal(size=(DRAWS, 4))


@pytest.mark.parametrize("measure", ["OR", "RR", "RD"])
@pytest.mark.parametrize("table", TABLES)
def test_the_interval_covers_at_every_noise(table, measure):
    """93% to 97% of 2,000 hospitals; a standard error of .5%, so 4 of them to either side.

    For: noise left out of the variance, or in it twice; the variance at the noisy table.
    """
    _, p1, _, p2 = TABLES[table]
    rng = np.random.default_rng([5, sum(map(ord, table + measure))])
    theta = np.full(DRAWS, truth(measure, p1, p2))
    for sigma in SIGMAS:
        x = noisy_tables(TABLES[table], sigma, rng)
        t, v = table_statistic(x, theta, sigma=sigma, measure=measure)
        assert 0.93 <= (t**2 <= Z2 * v).mean() <= 0.97, sigma


def test_the_ends_are_where_the_statistic_says():
    """The interval of a table is the hull of what the tested statistic lets through."""
    rng = np.random.default_rng(8)
    for x in noisy_tables(TABLES["the trial's largest"], 3.01, rng)[:20]:
        low, high = table_interval(x, sigma=3.01, measure="OR")
        for end in (low, high):
            t, v = table_statistic(x, np.array(math.exp(end)), sigma=3.01, measure="OR")
            assert t**2 == pytest.approx(Z2 * v, rel=1e-3)


def test_the_variance_is_the_stated_formula():
    b, a, d, c = 191.4, 15.2, 180.7, 26.9
    found = table_effect(np.array([[b, a], [d, c]]), sigma=3.01, measure="OR")
    cells = np.array([a, b, c, d])
    assert found.value == pytest.approx(math.log(a * d / (b * c)))
    assert found.sampling == pytest.approx((1 / cells).sum())
    assert found.noise == pytest.approx(3.01**2 * (1 / cells**2).sum())


@pytest.mark.parametrize("measure", ["OR", "RR", "RD"])
def test_the_variance_is_that_of_the_noise_itself(measure):
    """Noise alone, small beside the cells: the spread of the effect is the formula's."""
    rng, table = np.random.default_rng(6), np.array([[1910.0, 150.0], [1810.0, 260.0]])
    found = table_effect(table, sigma=3.0, measure=measure)
    noisy = [
        table_effect(table + 3 * rng.normal(size=(2, 2)), sigma=3.0, measure=measure).value
        for _ in range(300)
    ]
    assert np.var(noisy) == pytest.approx(found.noise, rel=0.35)


@pytest.mark.parametrize("measure", ["OR", "RR", "RD"])
def test_without_noise_it_is_metafors_effect_and_interval(measure):
    table = np.array([[66.0, 11.0], [62.0, 25.0]])
    exact = table_effect(table, sigma=0.0, measure=measure)
    almost = table_effect(table, sigma=1e-9, measure=measure)
    assert exact.value == pytest.approx(almost.value)
    assert exact.sampling == pytest.approx(almost.sampling)
    assert exact.noise == 0
    assert exact.high - exact.value == pytest.approx(1.959964 * math.sqrt(exact.sampling))


def test_an_empty_cell_without_noise_has_a_half_added_to_all():
    found = table_effect(np.array([[9.0, 0.0], [11.0, 1.0]]), sigma=0.0, measure="OR")
    assert found.value == pytest.approx(math.log(0.5 * 11.5 / (9.5 * 1.5)))
    assert "1/2 was added" in found.note


def test_no_event_in_either_arm_tells_nothing_of_a_ratio():
    found = table_effect(np.array([[2.0, 0.0], [1.0, 0.0]]), sigma=0.0, measure="OR")
    assert (found.value, found.low) == (None, None)
    assert "no event" in found.why


def test_a_count_below_zero_is_too_noisy_to_pool_and_keeps_its_interval():
    table = np.array([[200.0, -1.5], [190.0, 30.0]])
    found = table_effect(table, sigma=3.0, measure="OR")
    assert found.value is None
    assert "too noisy" in found.why
    assert found.low is None
    assert found.high < 0  # the noise has hidden how strong it is, not which way it points


def test_what_no_arm_is_known_of_has_no_interval():
    found = table_effect(np.array([[3.4, 0.1], [11.7, -1.5]]), sigma=3.01, measure="OR")
    assert (found.value, found.low, found.high) == (None, None, None)
    assert "below 5" in found.note


MEANS = {  # patients an arm, and beta distributions of the number on [0, 1]
    "even": (40, (2, 2), (2, 3)),
    "towards an end": (40, (5, 2), (5, 2)),
    "at both ends": (80, (0.5, 0.5), (0.5, 0.7)),
    "many": (300, (2, 2), (2, 3)),
}


@pytest.mark.parametrize("case", MEANS)
def test_the_interval_of_a_difference_of_means_covers(case):
    """As of tables. For: noise left out of the sum, of the size, or of the variance."""
    n, first, second = MEANS[case]
    rng = np.random.default_rng([7, n])
    true = 50 * 2 * (first[0] / sum(first) - second[0] / sum(second))
    for sigma in (0.0, 2.03):  # 2.03: epsilon 3
        covered = 0
        for _ in range(DRAWS):
            u = 2 * np.stack([rng.beta(*first, n), rng.beta(*second, n)]) - 1
            sums = np.stack([np.full(2, float(n)), u.sum(1), (u**2).sum(1)], 1)
            noisy = sums + sigma * rng.normal(size=(2, 3))
            found = means_effect(noisy, sigma=sigma, span=50.0)
            covered += found.low <= true <= found.high
        assert 0.93 <= covered / DRAWS <= 0.97, sigma


def test_small_arms_of_a_mean_are_told():
    sums = np.array([[20.0, 1.0, 9.0], [21.0, 2.0, 8.0]])
    assert "may not cover" in means_effect(sums, sigma=1.0, span=1.0).note
    assert "too noisy" in means_effect(sums, sigma=6.0, span=1.0).why
    equal = np.array([[20.0, 20.0, 20.0], [21.0, 2.0, 8.0]])
    assert "no variance" in means_effect(equal, sigma=0.0, span=1.0).why


def test_a_released_effect_adds_its_variances():
    assert Released(0.0, None, None, 2.0, 3.0).variance == 5.0
