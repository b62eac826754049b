"""Intervals of what is derived from a noisy histogram: against formulas, and by coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from common.evaluation import ScoreHistogram, bin_edges, derive
from common.metrics import figures, net_benefit
from tests.score_histograms import CALIBRATION, FIGURES, draw, one_each, two_columns


def test_without_noise_shares_have_wilsons_interval():
    counts = np.array([[[50.0, 20.0], [4.0, 16.0]]])
    found = derive(ScoreHistogram(bin_edges(2), counts, 0.0))
    shares = {"accuracy": (66, 90), "sensitivity": (16, 20), "specificity": (50, 70)}
    for name, (hits, total) in shares.items():
        low, high = proportion_confint(hits, total, method="wilson")
        assert found[f"{name}_low"] == pytest.approx(low, abs=1e-6)
        assert found[f"{name}_high"] == pytest.approx(high, abs=1e-6)


def test_without_noise_auc_has_newcombes_interval_from_below():
    risk, labels = draw(np.random.default_rng(3), 120)
    found = derive(one_each(risk, labels))
    sick, z = labels.sum(), norm.isf(0.025)
    healthy, pairs = 120 - sick, 120 / 2 - 1

    def gap(theta):
        spread = 1 + pairs * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        variance = theta * (1 - theta) * spread / (sick * healthy)
        return (found["auc"] - theta) ** 2 - z**2 * variance

    assert found["auc_low"] == pytest.approx(brentq(gap, 0.3, found["auc"]), abs=1e-6)
    # From above it may only be longer: the order within bins is not known.
    top = brentq(gap, found["auc"], 1 - 1e-12)
    assert top < found["auc_high"] < top + 0.02


def test_a_constant_score_has_an_auc_of_one_half_inside_its_interval():
    found = derive(one_each(np.full(80, 0.33), np.arange(80) % 2))
    assert found["auc"] == 0.5
    assert found["auc_low"] < 0.5 < found["auc_high"]


@pytest.mark.slow
def test_intervals_cover_what_they_promise():
    # Faults: noise left out, sigma halved, patients' sampling left out. Long runs give 94 to 97%
    # for each figure; 250 draws have sd 1.4%, so below 90% by chance < 1 in 1,000 a figure, about
    # 2% over the 30 figures if the seed were changed.
    rng = np.random.default_rng(4)
    risk, labels = draw(rng, 400_000)
    truth = figures(two_columns(risk), labels).to_json()
    truth["balanced_accuracy"] = (truth["sensitivity"] + truth["specificity"]) / 2
    benefits = net_benefit(two_columns(risk), labels)
    for patients, sigma in [(80, 0.0), (150, 2.0), (400, 4.0)]:
        found = [
            derive(one_each(*draw(rng, patients), bins=20, sigma=sigma, rng=rng))
            for _ in range(250)
        ]
        for name in FIGURES + CALIBRATION:
            known = [each for each in found if each[name] is not None]
            inside = [each[f"{name}_low"] <= truth[name] <= each[f"{name}_high"] for each in known]
            assert len(known) > 200, (name, patients, sigma)
            assert np.mean(inside) > 0.90, (name, patients, sigma)
        for column in (0, 2):
            rows, value = [each["net_benefit"][column] for each in found], benefits[column]["value"]
            assert np.mean([row["low"] <= value <= row["high"] for row in rows]) > 0.90


def test_noise_widens_every_interval():
    # Fault: sigma left out of a variance.
    exact = one_each(*draw(np.random.default_rng(5), 400))
    plain, noisy = derive(exact), derive(ScoreHistogram(exact.edges, exact.counts, 4.0))
    for name in FIGURES + CALIBRATION:
        assert noisy[name] == pytest.approx(plain[name])
        assert noisy[f"{name}_low"] < plain[f"{name}_low"] < plain[name]
        assert noisy[f"{name}_high"] > plain[f"{name}_high"] > plain[name]


def test_higher_level_widens_every_interval():
    exact = one_each(*draw(np.random.default_rng(5), 400))
    narrow, wide = derive(exact, level=0.8), derive(exact, level=0.99)
    for name in FIGURES + CALIBRATION:
        assert wide[f"{name}_low"] < narrow[f"{name}_low"]
        assert wide[f"{name}_high"] > narrow[f"{name}_high"]
