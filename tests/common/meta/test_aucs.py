"""AUCs of hospitals pooled: on the logit scale, with intervals that say nothing on one side."""

import json

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm

from common.meta.aucs import pool_auc
from common.meta.models import pool


def test_pooled_aucs_equal_random_effects_on_the_logit_scale():
    aucs, ses = np.array([0.85, 0.88, 0.7, 0.75]), np.array([0.2, 0.3, 0.25, 0.4])
    z = norm.isf(0.025)
    lows, highs = expit(logit(aucs) - z * ses), expit(logit(aucs) + z * ses)
    pooled = pool_auc(aucs.tolist(), lows.tolist(), highs.tolist())
    expected = pool(logit(aucs), ses**2, method="PM", test="adhoc")
    assert pooled is not None
    assert pooled["k"] == 4
    for name, value in [
        ("auc", expected.mean),
        ("low", expected.low),
        ("high", expected.high),
        ("prediction_low", expected.prediction_low),
        ("prediction_high", expected.prediction_high),
    ]:
        assert pooled[name] == pytest.approx(expit(value))
    assert pooled["tau2"] == pytest.approx(expected.tau2)
    assert set(json.loads(json.dumps(pooled, allow_nan=False))) == {
        *("auc", "low", "high", "prediction_low", "prediction_high", "tau2", "k", "method")
    }


def test_hospitals_too_noisy_to_say_are_left_out():
    said = pool_auc([0.8, 0.9, 0.7], [0.7, 0.8, 0.6], [0.87, 0.95, 0.8])
    more = pool_auc([0.8, 0.5, None, 0.9, 0.7], [0.7, 0, 0, 0.8, 0.6], [0.87, 1, 1, 0.95, 0.8])
    assert said is not None
    assert more == said
    assert pool_auc([None, 0.6], [0.0, 0.0], [1.0, 1.0]) is None
    assert pool_auc([], [], []) is None


def test_perfect_auc_is_pooled_without_overflow():
    pooled = pool_auc([1.0, 0.9, 0.85], [0.9, 0.8, 0.75], [1.0, 0.96, 0.92])
    assert pooled is not None
    assert 0.8 < pooled["auc"] < 1
    same = pool_auc([1.0] * 3, [1.0] * 3, [1.0] * 3)
    assert same is not None
    assert same["auc"] == pytest.approx(0.995)


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        pool_auc([0.8], [0.7], [])


def test_a_pooled_auc_lies_among_its_hospitals():
    """Fault it is for: an interval that noise pushes to 1 counted by its middle, above its AUC."""
    aucs, lows, highs = [0.91, 0.86, 0.78, 0.75], [0.79, 0.66, 0.4, 0.6], [0.99, 1.0, 1.0, 1.0]
    pooled = pool_auc(aucs, lows, highs)
    assert pooled is not None
    assert min(aucs) < pooled["auc"] < max(aucs)
    assert pooled["auc"] == pytest.approx(0.82, abs=0.04)


def test_two_hospitals_are_not_pooled():
    assert pool_auc([0.8, 0.9], [0.7, 0.8], [0.87, 0.95]) is None
