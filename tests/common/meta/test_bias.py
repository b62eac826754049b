"""Tests of the funnel and trim and fill: metafor's figures, planted asymmetry, no false alarm."""

import numpy as np
import pytest
import statsmodels.api

from common.meta import bias
from common.meta.bias import begg, egger, trim_and_fill
from tests.meta_tables import TABLES, table


def test_bcg_trials_give_metafors_tests(tmp_path):
    bcg = table(tmp_path, "bcg", "RR")
    found = egger(bcg.y, bcg.v)
    # regtest(model="lm"): t -1.4013, p .1887; its coefficient of the standard error -2.112.
    assert found.intercept == pytest.approx(-2.112, abs=5e-4)
    assert (found.t, found.p) == pytest.approx((-1.4013, 0.1887), abs=5e-5)
    # ranktest: Kendall's tau .0256, p .9524.
    assert begg(bcg.y, bcg.v) == pytest.approx((0.0256, 0.9524), abs=5e-5)


def test_magnesium_trials_give_metafors_tests(tmp_path):
    # metafor, tests/testthat/test_misc_pub_bias.r: regtest z -4.6686; ranktest tau .15, p .4503.
    magnesium = table(tmp_path, "egger2001", "OR")
    assert egger(magnesium.y, magnesium.v).z == pytest.approx(-4.6686, abs=5e-5)
    assert begg(magnesium.y, magnesium.v) == pytest.approx((0.15, 0.4503), abs=5e-5)


@pytest.mark.parametrize("name", TABLES)
def test_eggers_test_is_the_regression_of_his_paper(tmp_path, name):
    """Slow twin: standardised effects on precision, by ordinary least squares."""
    found = table(tmp_path, name)
    se = np.sqrt(found.v)
    fit = statsmodels.api.OLS(found.y / se, np.column_stack([np.ones(len(se)), 1 / se])).fit()
    tested = egger(found.y, found.v)
    assert tested.intercept == pytest.approx(fit.params[0])
    assert (tested.t, tested.p) == pytest.approx((fit.tvalues[0], fit.pvalues[0]))


def test_passive_smoking_gives_metafors_trim_and_fill(tmp_path):
    # trimfill(rma(yi, vi, data=dat.hackshaw1998)): 7 missing on the left; .1745 (se .0484), .0795
    # to .2694, tau2 .0245.
    smoking = table(tmp_path, "hackshaw1998", "OR")
    found = trim_and_fill(smoking.y, smoking.v)
    assert (found.k0, found.side) == (7, "left")
    pooled = found.pooled
    assert (pooled.mean, pooled.se) == pytest.approx((0.1745, 0.0484), abs=5e-5)
    assert (pooled.low, pooled.high) == pytest.approx((0.0795, 0.2694), abs=5e-5)
    assert pooled.tau2 == pytest.approx(0.0245, abs=5e-5)
    assert pooled.k == 44


@pytest.mark.parametrize("estimator", ["L0", "R0"])
@pytest.mark.parametrize("sign", [1, -1])
def test_studies_cut_off_one_side_are_found_missing_there(estimator, sign):
    """Fault it is for: filling the side that studies are on."""
    half = np.array([0.05, 0.15, 0.25, 0.4, 0.5, 0.7, 0.9, 1.2, 1.4])
    y = sign * np.concatenate([half, -half[:4], [0.0]])  # the five lowest are gone
    v = np.concatenate([half, half[:4], [0.1]]) ** 2 / 2 + 0.01
    found = trim_and_fill(y, v, method="FE", estimator=estimator)
    assert found.side == ("left" if sign > 0 else "right")
    assert 3 <= found.k0 <= 6
    assert abs(found.pooled.mean) < 0.02
    assert (sign * found.y < 0).all()


def test_a_symmetric_funnel_is_left_alone():
    y = np.array([-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0])
    v = np.array([0.5, 0.2, 0.05, 0.01, 0.05, 0.2, 0.5])
    found = trim_and_fill(y, v)
    assert found.k0 == 0
    assert len(found.y) == 0
    assert found.pooled.mean == pytest.approx(0, abs=1e-9)
    assert egger(y, v).intercept == pytest.approx(0, abs=1e-9)


def test_equal_effects_and_equal_errors_are_survived():
    """Fault it is for: ranks of rounding errors, which never settle."""
    same, v = np.full(4, 0.1), np.array([0.02, 0.04, 0.03, 0.02])
    assert trim_and_fill(same, v).k0 == 0
    assert egger(same, v) is None
    varied = np.array([0.1, 0.3, 0.2, 0.6])
    assert egger(varied, np.full(4, 0.02)) is None
    assert trim_and_fill(varied, np.full(4, 0.02)) is not None
    assert begg(varied, np.full(4, 0.02)) is None


def test_two_studies_are_too_few():
    y, v = np.array([0.1, 0.4]), np.array([0.1, 0.2])
    assert egger(y, v) is None
    assert begg(y, v) is None
    assert trim_and_fill(y, v) is None


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="L0 or R0"):
        trim_and_fill(np.zeros(3), np.ones(3), estimator="Q0")


@pytest.mark.parametrize(("estimator", "expected"), [("L0", 3), ("R0", 3)])
def test_missing_studies_are_counted_as_worked_by_hand(estimator, expected):
    # Ranks 2 to 5 are above the centre, S = 14: L0 = (4 x 14 - 5 x 6) / 9 = 2.89; R0 = 5 - 1 - 1.
    centred = np.array([-1.0, 2.0, 3.0, 4.0, 5.0])
    assert bias._missing(centred, 1.0, estimator) == expected
