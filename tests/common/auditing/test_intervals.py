"""Exact intervals: against statsmodels, the binomial itself, and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, chi2
from statsmodels.stats.proportion import proportion_confint

from common.auditing.intervals import clopper_pearson, standard_deviation


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 40), (7, 40), (40, 40), (3, 5000)])
@pytest.mark.parametrize("p", [0.05, 1e-4])
def test_a_rate_has_the_exact_interval(hits, trials, p):
    found = clopper_pearson(hits, trials=trials, p=p)
    low, high = proportion_confint(hits, trials, alpha=p, method="beta")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    if hits > 0:
        assert binom.sf(hits - 1, trials, found.low) == pytest.approx(p / 2)
    if hits < trials:
        assert binom.cdf(hits, trials, found.high) == pytest.approx(p / 2)


def test_a_standard_deviation_is_covered_as_often_as_stated():
    """2000 draws of 20; 90% are within, 1800; fewer than 1747 or more than 1853 once in 13000."""
    rng = np.random.default_rng(7)
    ends = [standard_deviation(3 * rng.standard_normal(20), p=0.1) for _ in range(2000)]
    assert 1747 <= sum(e.low <= 3 <= e.high for e in ends) <= 1853


def test_a_standard_deviation_solves_the_chi_square():
    x = np.array([[1.0, -2.0], [0.5, 4.0]])
    found, square = standard_deviation(x, p=0.05), 21.25
    assert found.value == pytest.approx((square / 4) ** 0.5)
    assert chi2.sf(square / found.low**2, 4) == pytest.approx(0.025)
    assert chi2.cdf(square / found.high**2, 4) == pytest.approx(0.025)


def test_no_noise_has_a_standard_deviation_of_zero():
    found = standard_deviation(np.zeros(5), p=0.05)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("hits", "trials", "p"), [(0, 0, 0.1), (3, 2, 0.1), (-1, 2, 0.1)])
def test_impossible_counts_are_refused(hits, trials, p):
    with pytest.raises(ValueError, match="use at least one trial"):
        clopper_pearson(hits, trials=trials, p=p)


def test_impossible_samples_and_levels_are_refused():
    for samples in ([], [np.nan, 1.0], [np.inf]):
        with pytest.raises(ValueError, match="finite ones only"):
            standard_deviation(np.array(samples), p=0.05)
    for p in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="p is"):
            standard_deviation(np.ones(3), p=p)
        with pytest.raises(ValueError, match="p is"):
            clopper_pearson(1, trials=3, p=p)
