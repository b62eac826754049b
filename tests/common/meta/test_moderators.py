"""Subgroups and meta-regression: metafor's figures, designs by hand, what cannot be fitted."""

import numpy as np
import pytest
import statsmodels.api

from common.errors import DataError
from common.meta.models import pool
from common.meta.moderators import features, regress, subgroups
from tests.meta_tables import given, table

COLLINEAR = "yi,vi,x,z\n.1,.02,1,2\n.2,.02,2,4\n.3,.02,3,6\n.5,.03,5,10\n"


def test_latitude_gives_metafors_regression(tmp_path):
    bcg = table(tmp_path, "bcg", "RR")
    made = features(bcg, ["ablat"])
    found = regress(bcg.y, bcg.v, made.design, made.names, test="z")
    # rma(yi, vi, mods = ~ ablat): .2515 (.2491), -.0291 (.0072); tau2 .0764, R2 75.62%, QE 30.7331.
    assert found.coefficients == pytest.approx([0.2515, -0.0291], abs=5e-5)
    assert found.se == pytest.approx([0.2491, 0.0072], abs=5e-5)
    assert found.tau2 == pytest.approx(0.0764, abs=1e-4)
    assert found.r2 == pytest.approx(0.7562, abs=2e-4)
    assert found.q_residual == pytest.approx(30.7331, abs=5e-5)


def test_weeks_of_contact_give_raudenbush_and_bryks_regression(tmp_path):
    # metafor, tests/testthat/test_analysis_example_raudenbush1985.r: weeks counted to 3 at most.
    teachers = table(tmp_path, "raudenbush1985")
    weeks = np.minimum(teachers.table["weeks"].astype(float), 3)
    design = np.column_stack([np.ones(19), weeks])
    found = regress(teachers.y, teachers.v, design, ["intercept", "weeks"], test="z")
    assert found.coefficients == pytest.approx([0.4072, -0.1572], abs=5e-5)
    assert found.coefficients / found.se == pytest.approx([4.6782, -4.3884], abs=1e-4)
    assert found.q_residual == pytest.approx(16.5708, abs=5e-5)
    assert found.tau2 == pytest.approx(0, abs=1e-9)


def test_knapp_and_hartungs_test_is_weighted_least_squares(tmp_path):
    """Slow twin: WLS with weights 1 / (v + tau2) estimates that very scale."""
    bcg = table(tmp_path, "bcg", "RR")
    made = features(bcg, ["ablat", "alloc"])
    assert made.names == ("intercept", "ablat", "alloc: random", "alloc: systematic")
    found = regress(bcg.y, bcg.v, made.design, made.names)
    fit = statsmodels.api.WLS(bcg.y, made.design, weights=1 / (bcg.v + found.tau2)).fit()
    assert found.coefficients == pytest.approx(fit.params)
    assert found.se == pytest.approx(fit.bse)
    assert found.p == pytest.approx(fit.pvalues)
    assert found.omnibus_p == pytest.approx(fit.f_pvalue)
    low, high = fit.conf_int().T
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_the_conservative_test_is_never_narrower():
    y, v, x = np.array([0.1, 0.2, 0.31, 0.39]), np.full(4, 0.5), np.arange(4.0)
    design = np.column_stack([np.ones(4), x])
    plain, kept, wald = (
        regress(y, v, design, ["i", "x"], test=test).se for test in ("knha", "adhoc", "z")
    )
    assert (plain < wald).all()
    assert kept == pytest.approx(wald)


def test_a_blank_leaves_a_study_out_of_the_regression(tmp_path):
    text = "yi,vi,x\n.1,.02,1\n.2,.02,\n.3,.02,3\n.5,.03,5\n.4,.02,4\n"
    made = features(given(tmp_path, text), ["x"])
    assert made.rows.tolist() == [True, False, True, True, True]
    assert made.design[:, 1].tolist() == [1, 3, 5, 4]


@pytest.mark.parametrize(
    ("columns", "said"),
    [(["x", "z"], "follows from the others"), (["none"], "no column 'none'"),
     (["x", "vi", "yi"], "4 coefficients for 4 studies")],
)  # fmt: skip
def test_designs_that_cannot_be_fitted_are_refused(tmp_path, columns, said):
    with pytest.raises(DataError, match=said):
        features(given(tmp_path, COLLINEAR), columns)


def test_each_group_is_pooled_by_itself(tmp_path):
    bcg = table(tmp_path, "bcg", "RR")
    groups, between = subgroups(bcg, "alloc")
    assert {name: one.k for name, one in groups.items()} == {
        "random": 7, "alternate": 2, "systematic": 4,
    }  # fmt: skip
    random = (bcg.table["alloc"] == "random").to_numpy()
    assert groups["random"].mean == pytest.approx(pool(bcg.y[random], bcg.v[random]).mean)
    # rma by subset: -.9710 (.2760), -.5408 (.2816), -.4242 (.3597); Q between them by hand.
    means, se = np.array([-0.97096, -0.54079, -0.42421]), np.array([0.27596, 0.2816, 0.35975])
    w = se**-2
    assert between[0] == pytest.approx(w @ (means - w @ means / w.sum()) ** 2, abs=1e-3)
    assert between[1] == 2


def test_one_group_has_no_test_and_a_blank_column_is_refused(tmp_path):
    effects = given(tmp_path, "yi,vi,g,b\n.1,.02,a,\n.2,.03,a,\n")
    assert subgroups(effects, "g")[1] is None
    with pytest.raises(DataError, match="every cell is blank"):
        subgroups(effects, "b")
