"""AUCs of few patients: hand-worked figures, intervals, and their coverage in simulation."""

import numpy as np
import pytest
from scipy.stats import norm

from common.auc import auc_estimate, mean_estimate
from common.meta.models import pool
from common.metrics import auc_variance


def test_one_positive_above_all_others_has_the_figures_worked_by_hand():
    # m = 39 / (1 + 38 / 2) = 1.95, and A' = (1.95 + 1/2) / 2.95 = .830508.
    # V(A') by Hanley and McNeil: Q2 = 2 A'^2 / (1 + A') = 1.379488 / 1.830508 = .753609, and
    # (A' (1 - A') + 38 (Q2 - A'^2)) / 39 = (.140764 + 38 x .063865) / 39 = .065837.
    found = auc_estimate(1.0, positives=1, negatives=39)
    assert found.shrunk == pytest.approx(0.830508, abs=1e-6)
    assert found.variance == pytest.approx(0.065837, abs=2e-6)
    # .065837 / .140764^2 = 3.3227, of a standard error of 1.823 on the logit scale.
    assert found.logit_variance == pytest.approx(3.3227, abs=2e-4)


def test_the_effective_comparisons_are_those_of_hanley_and_mcneils_variance():
    # Slow twin: m = A (1 - A) / V at the AUC itself; the shrunk AUC gives it away.
    for area, n1, n0 in ((0.8, 20, 20), (0.93, 7, 60), (0.5, 3, 3), (0.99, 100, 50)):
        m = area * (1 - area) / auc_variance(area, positives=n1, negatives=n0)
        found = auc_estimate(area, positives=n1, negatives=n0)
        assert found.shrunk == pytest.approx((area * m + 0.5) / (m + 1))


@pytest.mark.parametrize("area", [0.0, 1.0])
def test_a_perfect_order_of_few_is_a_wide_interval_that_holds_it(area):
    """Fault it is for: a variance of 0, floored, gave [0.9988, 0.9992] around a clipped AUC of 1.

    And the other way round: half a pair of 900 gave perfect order of 30 and 30 the interval .03 to
    1. A score that puts all in the wrong order is as well known as its reverse.
    """
    for count, least, most in (((1, 39), 0.85, 1.0), ((30, 30), 0.1, 0.15)):
        positives, negatives = count
        low, high = auc_estimate(area, positives=positives, negatives=negatives).interval()
        assert low <= area <= high
        assert least < high - low < most


@pytest.mark.parametrize(("positives", "negatives"), [(0.25, 3.0), (0.5, 0.5), (1, 1), (2.5, 60)])
@pytest.mark.parametrize("area", [0.0, 0.3, 1.0])
def test_parts_of_patients_give_a_variance_above_zero(area, positives, negatives):
    """Fault it is for: (0.25 - 1) pairs took more from the variance than there was."""
    found = auc_estimate(area, positives=positives, negatives=negatives)
    assert found.variance > 0
    assert found.interval()[0] <= area <= found.interval()[1]


def test_of_many_patients_nothing_changes():
    plain = auc_variance(0.8, positives=4000, negatives=6000)
    found = auc_estimate(0.8, positives=4000, negatives=6000)
    assert found.shrunk == pytest.approx(0.8, abs=1e-4)
    assert found.variance == pytest.approx(plain, rel=1e-3)


def test_draws_that_contradict_each_other_leave_the_mean_uncertain():
    """Fault it is for: `0.50 (0.50 to 0.50)` of draws with two patients left, AUC 0 or 1 each."""
    draws = [auc_estimate(a, positives=1, negatives=1) for a in (0.0, 1.0)]
    low, high = mean_estimate(draws).interval()
    # One pair: each is shrunk to 1/4 or 3/4, of variance 3/16; at 1/2 the logit has 3/16 x 16 = 3.
    assert mean_estimate(draws).logit_variance == pytest.approx(3.0)
    assert (low, high) == pytest.approx((0.0325, 0.9675), abs=1e-4)


def test_one_hospital_of_one_positive_does_not_take_over_the_pool():
    """Fault it is for: a variance of 1e-8 weighed it above all, with 7.57 between hospitals."""
    others = [auc_estimate(0.8, positives=60, negatives=60)] * 4
    rows = [*others, auc_estimate(1.0, positives=1, negatives=39)]
    estimates, variances = [r.logit for r in rows], [r.logit_variance for r in rows]
    pooled = pool(estimates, variances, method="PM", test="adhoc")
    # Logits 1.37 of variance .064 each, and 1.59 of variance 3.3: weights of 62 and .3.
    assert pooled.tau2 == 0
    assert pooled.mean == pytest.approx(others[0].logit, abs=0.01)


@pytest.mark.parametrize(("area", "held"), [(0.8, 0.961), (0.95, 0.961), (0.99, 0.943)])
def test_the_interval_covers_the_true_auc(area, held):
    """Normal scores of 20 and 20 patients, 4,000 samples: a standard error of at most .37 points.

    With another seed a share 1.2 points off, more than three standard errors, comes up once in a
    thousand times. The seed is fixed.
    """
    rng = np.random.default_rng(0)
    ill = rng.normal(np.sqrt(2) * norm.ppf(area), 1, (4000, 20))
    well = rng.normal(size=(4000, 20))
    found = (ill[:, :, None] > well[:, None, :]).mean(axis=(1, 2)).tolist()
    ends = {a: auc_estimate(a, positives=20, negatives=20).interval() for a in set(found)}
    share = np.mean([ends[a][0] <= area <= ends[a][1] for a in found])
    assert 0.93 < share < 0.97
    assert share == pytest.approx(held, abs=0.012)
