"""Histograms of scores by outcome: their sensitivity, and what is derived from them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from common.evaluation import ScoreHistogram, bin_edges, derive, score_histogram
from common.metrics import figures, net_benefit
from tests.score_histograms import CALIBRATION, FIGURES, draw, one_each, two_columns

# The histogram


def test_scores_fall_in_the_bin_that_starts_at_their_edge():
    risk = [0.0, 0.1, 0.3, 0.5, 0.7, 0.999, 1.0]
    counts = score_histogram(two_columns(risk), np.zeros(7, int), np.arange(7), bins=10)
    assert counts[0, 0].tolist() == [1, 1, 0, 1, 0, 1, 0, 1, 0, 2]
    assert counts[0, 1].sum() == 0


def test_scores_that_are_not_probabilities_fall_in_the_end_bins():
    risk = np.array([np.nan, -np.inf, -0.1, 1.1, np.inf])
    scores = np.column_stack([risk, risk])
    counts = score_histogram(scores, np.ones(5, int), np.arange(5), bins=2)
    assert counts.tolist() == [[[0, 0], [3, 2]]]


def test_each_class_is_counted_against_the_rest():
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    counts = score_histogram(scores, np.array([0, 2]), np.array([5, 9]), bins=2)
    assert counts.tolist() == [[[1, 0], [0, 1]], [[2, 0], [0, 0]], [[1, 0], [0, 1]]]


def test_a_label_that_is_no_class_is_without_every_class():
    counts = score_histogram(np.full((2, 3), 0.4), np.array([-1, 7]), np.arange(2), bins=2)
    assert counts[:, 1].sum() == 0
    assert counts[:, 0].sum() == 6


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("value", [0.3, 1.0, 1e6, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("records", [1, 3, 100])
def test_one_patient_more_changes_each_class_by_at_most_one(classes, value, records):
    # Faults: a mass of one a record; a mass of 1 / k where another patient's records count too.
    rng = np.random.default_rng(0)
    scores, labels = rng.dirichlet(np.ones(classes), size=40), rng.integers(classes, size=40)
    patients = rng.integers(12, size=40)
    before = score_histogram(scores, labels, patients, bins=10)
    theirs = rng.dirichlet(np.ones(classes), size=records)
    theirs[::2] = value
    order = rng.permutation(40 + records)  # a patient's records need not be neighbours
    after = score_histogram(
        np.vstack([scores, theirs])[order],
        np.append(labels, rng.integers(-1, classes + 1, size=records))[order],
        np.append(patients, np.full(records, 99))[order],
        bins=10,
    )
    change = after - before
    assert np.abs(change).sum(axis=(1, 2)) == pytest.approx(1)
    assert (np.linalg.norm(change.reshape(len(change), -1), axis=1) <= 1 + 1e-12).all()
    assert (change >= -1e-12).all()


def test_nobody_gives_an_empty_histogram():
    counts = score_histogram(np.zeros((0, 2)), np.zeros(0, int), np.zeros(0, int), bins=4)
    assert counts.shape == (1, 2, 4)
    assert not counts.any()


@pytest.mark.parametrize(
    ("scores", "labels", "patients", "bins", "word"),
    [
        (np.zeros((2, 2)), np.zeros(2), np.zeros(2), 5, "bins"),
        (np.zeros((2, 2)), np.zeros(2), np.zeros(2), 0, "bins"),
        (np.zeros((2, 1)), np.zeros(2), np.zeros(2), 4, "classes"),
        (np.zeros((2, 2)), np.zeros(2), np.zeros(3), 4, "patients"),
    ],
)
def test_bad_arguments_are_named(scores, labels, patients, bins, word):
    with pytest.raises(ValueError, match=word):
        score_histogram(scores, labels, patients, bins=bins)


# Estimates


def test_without_noise_scores_at_midpoints_give_the_exact_figures():
    rng = np.random.default_rng(1)
    risk, labels = draw(rng, 300)
    risk = np.floor(risk * 10) / 10 + 0.05
    found, exact = derive(one_each(risk, labels)), figures(two_columns(risk), labels)
    for name in ["auc", "accuracy", "sensitivity", "specificity", "brier", "calibration_intercept"]:
        assert found[name] == pytest.approx(getattr(exact, name), abs=1e-8), name
    benefits = net_benefit(two_columns(risk), labels)
    for mine, theirs in zip(found["net_benefit"], benefits, strict=True):
        assert mine["threshold"] == theirs["threshold"]
        assert mine["value"] == pytest.approx(theirs["value"])
        assert mine["treat_all"] == pytest.approx(theirs["treat_all"])
    inner = (risk > 0.1) & (risk < 0.9)  # the slope goes without the end bins
    slope = figures(two_columns(risk[inner]), labels[inner]).calibration_slope
    assert found["calibration_slope"] == pytest.approx(slope, abs=1e-8)


def test_threshold_inside_a_bin_shares_it_out():
    # Two bins; 4 sick and 8 healthy in the upper one. At .75 half of it is treated, odds 3.
    counts = np.array([[[8.0, 8.0], [0.0, 4.0]]])
    found = derive(ScoreHistogram(bin_edges(2), counts, 0.0), thresholds=[0.75])
    assert found["net_benefit"][0]["value"] == pytest.approx((2 - 3 * 4) / 20)


def test_auc_is_unbiased_under_noise():
    # Fault: cells clipped at zero put patients where there are none and pull the AUC to one half
    # (by .02 here). sd of one draw about .035, of 400 about .0018: fails by chance < 1e-4.
    rng = np.random.default_rng(2)
    exact = one_each(*draw(rng, 500), bins=20)
    sigma = 4.0
    noisy = [exact.counts + sigma * rng.normal(size=exact.counts.shape) for _ in range(400)]
    aucs = [derive(ScoreHistogram(exact.edges, each, sigma))["auc"] for each in noisy]
    assert np.mean(aucs) == pytest.approx(derive(exact)["auc"], abs=0.008)


# Edges


def assert_plain(found):
    """JSON without NaN, estimates inside their intervals, shares inside [0, 1]."""
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name in FIGURES + CALIBRATION:
        value, low, high = found[name], found[f"{name}_low"], found[f"{name}_high"]
        assert value is None or low <= value <= high
        if name in FIGURES and low is not None:
            assert low >= 0
            assert high <= (2 if name == "brier" else 1)


@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_nobody_is_too_few_to_say(sigma):
    found = derive(ScoreHistogram(bin_edges(10), np.zeros((1, 2, 10)), sigma))
    assert_plain(found)
    for name in FIGURES:
        assert (found[name], found[f"{name}_low"], found[f"{name}_high"]) == (None, 0.0, 1.0)
    assert all(found[name] is None and found[f"{name}_low"] is None for name in CALIBRATION)
    assert found["net_benefit"][3]["value"] is None
    assert (found["net_benefit"][3]["low"], found["net_benefit"][3]["high"]) == (-1.0, 1.0)


def test_figures_that_need_the_sick_are_too_noisy_where_few_are():
    # 8 sick against a noise of 4 sqrt(10) = 12.6 in their sum; 400 healthy are well above it.
    counts = np.array([[np.full(10, 40.0), np.full(10, 0.8)]])
    found = derive(ScoreHistogram(bin_edges(10), counts, 4.0))
    for name in ("auc", "sensitivity", "balanced_accuracy"):
        assert (found[name], found[f"{name}_low"], found[f"{name}_high"]) == (None, 0.0, 1.0)
    assert found["specificity"] == pytest.approx(0.5)
    assert found["accuracy"] is not None


def test_one_patient_is_not_certain():
    found = derive(one_each([0.95], np.array([1])))
    assert found["accuracy"] == 1.0
    assert found["accuracy_low"] < 0.5
    assert found["brier_high"] > 0.3
    assert found["auc"] is None
    assert_plain(found)


def test_anything_released_derives_to_plain_json():
    rng = np.random.default_rng(6)
    for _ in range(60):
        classes, bins = rng.choice([1, 3]), rng.choice([2, 4, 10])
        counts = rng.choice([0.1, 3.0, 50.0]) * rng.normal(0.5, 1, size=(classes, 2, bins))
        assert_plain(derive(ScoreHistogram(bin_edges(bins), counts, rng.choice([0.0, 0.5, 5.0]))))


def test_perfect_scores_reach_the_end_of_the_range():
    found = derive(one_each(np.repeat([0.05, 0.95], 50), np.repeat([0, 1], 50)))
    assert found["auc"] == found["auc_high"] == found["accuracy"] == 1.0
    assert 0.9 < found["auc_low"] < 1
    assert found["calibration_slope"] is None


def test_several_classes_are_averaged():
    rng = np.random.default_rng(7)
    labels = rng.integers(3, size=600)
    raw = np.exp(rng.normal(size=(600, 3)) + 1.5 * np.eye(3)[labels])
    scores = raw / raw.sum(axis=1, keepdims=True)
    counts = score_histogram(scores, labels, np.arange(600), bins=20)
    found, exact = derive(ScoreHistogram(bin_edges(20), counts, 0.0)), figures(scores, labels)
    assert found["auc"] == pytest.approx(exact.auc, abs=0.01)
    assert found["brier"] == pytest.approx(exact.brier, abs=0.01)
    each = [derive(ScoreHistogram(bin_edges(20), one[None], 0.0)) for one in counts]
    for name in ("auc", "sensitivity", "specificity", "balanced_accuracy"):
        for end in ("", "_low", "_high"):
            assert found[name + end] == pytest.approx(np.mean([one[name + end] for one in each]))
    assert found["accuracy"] is None
    assert found["net_benefit"] == []
    assert found["calibration_slope"] is None
    assert found["calibration_intercept"] is None
    # A class that nobody has is left out of the averages, not counted as zero.
    absent = np.concatenate([counts, [[counts[0].sum(axis=0), np.zeros(20)]]])
    again = derive(ScoreHistogram(bin_edges(20), absent, 0.0))
    assert again["auc"] == pytest.approx(found["auc"])


@pytest.mark.parametrize(
    ("edges", "shape", "sigma", "level", "word"),
    [
        (bin_edges(4), (1, 2, 6), 0.0, 0.95, "counts"),
        (bin_edges(4), (2, 4), 0.0, 0.95, "counts"),
        (np.array([0.0, 0.4, 1.0]), (1, 2, 2), 0.0, 0.95, "edges"),
        (bin_edges(4), (1, 2, 4), -1.0, 0.95, "sigma"),
        (bin_edges(4), (1, 2, 4), np.nan, 0.95, "sigma"),
        (bin_edges(4), (1, 2, 4), 0.0, 1.0, "level"),
    ],
)
def test_bad_histograms_are_refused(edges, shape, sigma, level, word):
    with pytest.raises(ValueError, match=word):
        derive(ScoreHistogram(edges, np.zeros(shape), sigma), level=level)


def test_bad_thresholds_are_refused():
    with pytest.raises(ValueError, match="thresholds"):
        derive(ScoreHistogram(bin_edges(2), np.ones((1, 2, 2)), 0.0), thresholds=[0.0])
