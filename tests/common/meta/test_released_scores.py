"""AUC and O/E from a released histogram, with the noise in their variance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.evaluation import ScoreHistogram, bin_edges, derive
from common.meta.released_scores import auc_effect, oe_effect

EDGES = bin_edges(10)
MIDDLE = (EDGES[:-1] + EDGES[1:]) / 2
COUNTS = np.array([[60, 50, 40, 30, 20, 15, 10, 6, 4, 2], [2, 4, 6, 8, 12, 14, 18, 20, 22, 24]])


def released(sigma, rng=None):
    counts = COUNTS.astype(float)
    noise = 0.0 if rng is None else sigma * rng.normal(size=counts.shape)
    return ScoreHistogram(EDGES, (counts + noise)[None], sigma)


def test_the_auc_is_the_histograms_own_on_the_logit_scale():
    hist = released(2.0, np.random.default_rng(1))
    found, own = auc_effect(hist), derive(hist)
    assert found.value == pytest.approx(math.log(own["auc"] / (1 - own["auc"])))
    assert found.low == pytest.approx(math.log(own["auc_low"] / (1 - own["auc_low"])))
    assert found.noise > 0
    exact = auc_effect(released(0.0))
    assert exact.noise == 0
    assert found.variance > exact.variance


def test_observed_over_expected_has_the_stated_variance():
    found = oe_effect(released(2.0))
    observed, n = COUNTS[1].sum(), COUNTS.sum()
    expected = MIDDLE @ COUNTS.sum(0)
    assert found.value == pytest.approx(math.log(observed / expected))
    assert found.sampling == pytest.approx((1 - observed / n) / observed)
    cells = (1 / observed - MIDDLE / expected) ** 2 + (MIDDLE / expected) ** 2
    assert found.noise == pytest.approx(4 * cells.sum())


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, 1.17, 3.01])
def test_the_interval_of_observed_over_expected_covers(sigma):
    """Patients whose risks are the bins' middles times a factor; 2,000 draws, as of tables."""
    rng, factor, covered = np.random.default_rng(9), 0.8, 0
    sizes = COUNTS.sum(0)
    for _ in range(2000):
        events = rng.binomial(sizes, factor * MIDDLE)
        counts = np.stack([sizes - events, events]) + sigma * rng.normal(size=COUNTS.shape)
        found = oe_effect(ScoreHistogram(EDGES, counts[None], sigma))
        covered += found.low <= math.log(factor) <= found.high
    assert 0.93 <= covered / 2000 <= 0.985  # wider for small risks: (1 - O/N) is of one risk


def test_what_the_noise_hides_is_too_noisy():
    lost = ScoreHistogram(EDGES, np.full((1, 2, 10), 0.1), 3.0)
    assert "too noisy" in auc_effect(lost).why
    assert "too noisy" in oe_effect(lost).why


def test_three_classes_have_an_auc_and_no_observed_over_expected():
    counts = np.stack([COUNTS, COUNTS, COUNTS]).astype(float)
    hist = ScoreHistogram(EDGES, counts, 0.0)
    assert auc_effect(hist).value is not None
    assert "two classes" in oe_effect(hist).why
