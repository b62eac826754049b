"""What an attack on membership finds: against scikit-learn, by hand, and by coverage."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve
from statsmodels.stats.proportion import proportion_confint

from common.auditing.membership import RATES, area, hits, others_needed, roc
from common.errors import GrandroundsError


def scores(seed, *, shift=1.0, members=200, others=400, digits=8):
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(shift, size=members), rng.standard_normal(others)
    return inside.round(digits), outside.round(digits)


@pytest.mark.parametrize("digits", [8, 0])  # 0: most scores are tied
def test_the_curve_and_its_area_are_scikit_learns(digits):
    inside, outside = scores(1, digits=digits)
    truth = np.arange(600) < 200
    together = np.concatenate([inside, outside])
    fpr, tpr, _ = roc_curve(truth, together, drop_intermediate=False)
    found = roc(inside, outside)
    assert found.false_positive == pytest.approx(fpr)
    assert found.true_positive == pytest.approx(tpr)
    assert area(inside, outside) == pytest.approx(roc_auc_score(truth, together))


def test_hits_by_hand():
    """300 others scored 0 to 299: three of them, 1%, lie above 296; so do two of the members."""
    found = hits(np.array([295.0, 296.0, 296.5, 400.0]), np.arange(300.0), at=0.01)
    assert (found.tpr, found.fpr, found.members, found.others) == (0.5, 0.01, 4, 300)
    low, high = proportion_confint(2, 4, method="beta")
    assert (found.tpr_low, found.tpr_high) == pytest.approx((low, high))
    assert json.loads(json.dumps(found.to_json()))["at"] == 0.01


def test_no_more_are_accused_than_the_rate_allows_and_no_fewer_without_ties():
    for n in (299, 300, 399, 400, 1000):
        inside, outside = scores(n, others=n)
        found = hits(inside, outside, at=0.01)
        assert found.fpr == (n // 100) / n  # 299 spare two: 2.99 would be three


@pytest.mark.parametrize("at", [0.01, 0.001])
def test_ties_are_accused_together_or_not_at_all(at):
    inside, outside = np.array([1.0, 2.0]), np.zeros(3000)
    outside[:40] = 1.0
    found = hits(inside, outside, at=at)
    assert (found.tpr, found.fpr) == (0.5, 0.0)


def test_an_attack_that_scores_all_alike_finds_nobody():
    found = hits(np.zeros(50), np.zeros(500), at=0.01)
    assert (found.tpr, found.fpr) == (0.0, 0.0)
    assert found.tpr_high == pytest.approx(1 - 0.025 ** (1 / 50))
    assert area(np.zeros(50), np.zeros(500)) == 0.5


def test_a_perfect_attack_finds_everybody():
    found = hits(np.full(50, 2.0), np.linspace(0, 1, 3000), at=0.001)
    assert (found.tpr, found.tpr_high) == (1.0, 1.0)


def test_the_number_of_others_needed_follows_from_no_false_alarm():
    """The 95% upper end of a rate of which none was seen, by the exact one-sided interval."""
    for at in RATES:
        n = others_needed(at)
        assert 1 - 0.05 ** (1 / n) <= at < 1 - 0.05 ** (1 / (n - 1))
    for at in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="at is"):
            others_needed(at)


def test_a_rate_beyond_the_others_is_refused_with_the_number_needed():
    inside, outside = scores(2, others=298)
    with pytest.raises(GrandroundsError, match="298 patients") as refused:
        hits(inside, outside, at=0.01)
    assert "at least 299" in refused.value.remedy
    with pytest.raises(GrandroundsError, match=r"of 0\.001") as refused:
        hits(*scores(3, others=2994), at=0.001)
    assert "at least 2995" in refused.value.remedy
    assert hits(*scores(3, others=2995), at=0.001).fpr <= 0.001


@pytest.mark.parametrize("call", [roc, area, lambda a, b: hits(a, b, at=0.01)])
def test_scores_of_nobody_or_that_are_no_number_are_refused(call):
    with pytest.raises(GrandroundsError, match="no scores of members"):
        call(np.ones(0), np.ones(500))
    with pytest.raises(GrandroundsError, match="no scores of others"):
        call(np.ones(5), np.ones(0))
    with pytest.raises(ValueError, match="others has 1 scores"):
        call(np.ones(5), np.append(np.ones(499), np.nan))


def test_infinite_scores_have_a_rank():
    assert area(np.array([np.inf, 0.0]), np.array([-np.inf, 0.0])) == 0.875


def test_the_interval_covers_the_rate_of_the_threshold_as_often_as_stated():
    """500 attacks; given its threshold, the true rate is known. At most 25 misses are expected of
    an exact 95% interval; more than 45 once in ten thousand."""
    missed = 0
    for seed in range(500):
        inside, outside = scores(seed, members=100, others=300)
        found = hits(inside, outside, at=0.01)
        true = norm.sf(np.sort(outside)[-4], loc=1.0)
        missed += not found.tpr_low <= true <= found.tpr_high
    assert missed <= 45
