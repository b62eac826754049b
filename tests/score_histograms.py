"""Calibrated risks and their histograms as released, for the tests of figures and intervals."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from common.evaluation import ScoreHistogram, bin_edges, score_histogram

FIGURES = ["auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "brier"]
CALIBRATION = ["calibration_slope", "calibration_intercept"]


def two_columns(risk):
    risk = np.asarray(risk, dtype=float)
    return np.column_stack([1 - risk, risk])


def one_each(risk, labels, *, bins=10, sigma=0.0, rng=None):
    """The release for patients with one record each."""
    counts = score_histogram(two_columns(risk), labels, np.arange(len(labels)), bins=bins)
    noise = 0.0 if rng is None else sigma * rng.normal(size=counts.shape)
    return ScoreHistogram(bin_edges(bins), counts + noise, sigma)


def draw(rng, patients):
    """Calibrated risks: logit 1.5 x + log odds of .4, x one unit of spread, groups 1.5 apart."""
    labels = (rng.random(patients) < 0.4).astype(int)
    x = rng.normal(size=patients) + np.where(labels, 0.75, -0.75)
    return expit(1.5 * x + logit(0.4)), labels
