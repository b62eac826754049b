"""Influence: metafor's own tests of it, and a slow twin of every diagnostic."""

import numpy as np
import pytest

from common.meta.influence import cumulative, influence, leave_one_out
from common.meta.models import pool
from tests.meta_tables import table


def test_the_first_bcg_trial_has_metafors_diagnostics(tmp_path):
    # metafor, tests/testthat/test_misc_influence.r, influence(rma(yi, vi)) of dat.bcg.
    bcg = table(tmp_path, "bcg", "RR")
    found = influence(bcg.y, bcg.v, method="REML")
    for name, value in {
        "rstudent": -0.218142474344442,
        "dffits": -0.0407075604868486,
        "cook": 0.00171654236729195,
        "covratio": 1.11644891104804,
        "tau2": 0.336156745300306,
        "q": 151.582572747109,
        "hat": 0.0505948307931551,
        "dfbetas": -0.0402659025974144,
    }.items():
        assert getattr(found, name)[0] == pytest.approx(value, rel=2e-6), name
    assert not found.influential[0]


def test_leaving_out_the_first_trial_gives_metafors_figures(tmp_path):
    bcg = table(tmp_path, "bcg", "RR")
    first = leave_one_out(bcg.y, bcg.v, method="REML")[0]
    assert (first.mean, first.se) == pytest.approx((-0.707083788, 0.189961025), abs=1e-7)
    assert (100 * first.i2, first.h2) == pytest.approx((93.22593, 14.762185), abs=2e-5)


def test_bcg_trials_add_up_as_in_metafor(tmp_path):
    # metafor, tests/testthat/test_misc_cumul.r, cumul(res, order=year).
    bcg = table(tmp_path, "bcg", "RR")
    order = np.argsort(bcg.table["year"].astype(int).to_numpy(), kind="stable")
    found = [pooled.mean for pooled in cumulative(bcg.y, bcg.v, order, method="REML")]
    expected = [
        -0.889311, -1.325003, -0.97208, -1.001094, -1.101424, -0.973464, -0.901251,
        -0.788566, -0.865607, -0.785211, -0.708206, -0.794768, -0.714532,
    ]  # fmt: skip
    assert found == pytest.approx(expected, abs=5e-6)


def test_a_planted_outlier_is_the_influential_one():
    y, v = np.array([0.1, 0.12, 0.08, 0.11, 0.09, 0.9]), np.full(6, 0.04)
    found = influence(y, v, method="FE")
    assert np.flatnonzero(found.influential).tolist() == [5]
    assert found.baujat_x.argmax() == 5
    assert found.baujat_y.argmax() == 5
    # By hand: the mean of six is 1.4 / 6, of the others .1; standard errors .2 / sqrt(6 or 5).
    moved = 1.4 / 6 - 0.1
    assert found.cook[5] == pytest.approx(moved**2 / (0.04 / 6))
    assert found.rstudent[5] == pytest.approx(0.8 / np.sqrt(0.04 + 0.04 / 5))
    assert found.dffits[5] == pytest.approx(moved / np.sqrt(0.04 / 6))
    assert found.hat == pytest.approx(1 / 6)


def test_too_few_studies_have_no_diagnostics():
    y, v = np.array([0.1, 0.4]), np.array([0.1, 0.2])
    assert influence(y, v, method="REML") is None
    assert leave_one_out(y[:1], v[:1], method="REML") == []
    assert [one.k for one in leave_one_out(y, v, method="REML")] == [1, 1]


def test_the_last_of_the_sums_is_the_whole():
    rng = np.random.default_rng(2)
    y, v = rng.normal(size=6), rng.uniform(0.1, 0.3, size=6)
    last = cumulative(y, v, rng.permutation(6), method="DL", test="knha")[-1]
    whole = pool(y, v, method="DL", test="knha")
    assert (last.mean, last.se, last.tau2) == pytest.approx((whole.mean, whole.se, whole.tau2))
