"""Effects: formulas worked by hand, metafor's documented figures, empty cells."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from common.meta import effects
from common.meta.models import pool
from tests.meta_tables import table


def one(*cells):
    return [np.array([float(cell)]) for cell in cells]


def test_two_by_two_tables_have_the_figures_worked_by_hand():
    # 10 of 30 against 5 of 25.
    cells = one(10, 20, 5, 20)
    found = {m: effects.two_by_two(m, *cells) for m in ("OR", "RR", "RD")}
    assert math.exp(found["OR"][0][0]) == pytest.approx(2.0)
    assert found["OR"][1][0] == pytest.approx(0.1 + 0.05 + 0.2 + 0.05)
    assert math.exp(found["RR"][0][0]) == pytest.approx((10 / 30) / (5 / 25))
    assert found["RR"][1][0] == pytest.approx(1 / 10 - 1 / 30 + 1 / 5 - 1 / 25)
    assert found["RD"][0][0] == pytest.approx(1 / 3 - 1 / 5)
    assert found["RD"][1][0] == pytest.approx((2 / 9) / 30 + 0.16 / 25)
    assert not any(corrected[0] for _, _, corrected in found.values())


def test_one_empty_cell_has_a_half_added_to_all_four():
    y, v, corrected = effects.two_by_two("OR", *one(0, 22, 1, 20))
    # Bertschat 1989 of dat.egger2001: log(.5 x 20.5 / (22.5 x 1.5)).
    assert y[0] == pytest.approx(math.log(0.5 * 20.5 / (22.5 * 1.5)))
    assert v[0] == pytest.approx(1 / 0.5 + 1 / 22.5 + 1 / 1.5 + 1 / 20.5)
    assert corrected[0]


@pytest.mark.parametrize("cells", [(0, 10, 0, 12), (10, 0, 12, 0)])
def test_groups_that_are_both_empty_say_nothing_of_a_ratio(cells):
    for measure in ("OR", "RR"):
        y, v, _ = effects.two_by_two(measure, *one(*cells))
        assert np.isnan(y[0])
        assert np.isnan(v[0])
    y, v, corrected = effects.two_by_two("RD", *one(*cells))
    assert abs(y[0]) < 0.02
    assert v[0] > 0
    assert corrected[0]


def test_only_the_table_with_an_empty_cell_is_corrected():
    """Fault it is for: 1/2 added to every table when one has an empty cell."""
    ai, bi, ci, di = (np.array(x, dtype=float) for x in ([0, 10], [10, 20], [3, 5], [7, 20]))
    y, _, corrected = effects.two_by_two("OR", ai, bi, ci, di)
    assert corrected.tolist() == [True, False]
    assert math.exp(y[1]) == pytest.approx(2.0)


def test_hedges_g_has_the_exact_correction(tmp_path):
    stroke = table(tmp_path, "normand1999", "SMD")
    # metafor: escalc(measure="SMD") of dat.normand1999; first study -.3552 (.0131).
    assert stroke.y[0] == pytest.approx(-0.3552, abs=5e-5)
    assert stroke.v[0] == pytest.approx(0.0131, abs=5e-5)
    # Small groups: J(4) = Gamma(2) / (sqrt(2) Gamma(1.5)) = 1 / (1.41421 x .886227) = .797885.
    size, mean, sd = one(3), one(1), one(1)
    g, v = effects.mean_difference(
        "SMD", n1=size[0], m1=mean[0], sd1=sd[0], n2=size[0], m2=0 * mean[0], sd2=sd[0]
    )
    assert g[0] == pytest.approx(0.797885, abs=1e-6)
    assert v[0] == pytest.approx(2 / 3 + 0.797885**2 / 12, abs=1e-6)


def test_mean_differences_give_normands_published_table(tmp_path):
    # metafor's tests/testthat/test_analysis_example_normand1999.r, after Normand 1999, tables VIII
    # and IX, whose variances use the pooled standard deviation.
    stroke = table(tmp_path, "normand1999", "MD").table
    columns = ("n1i", "n2i", "m1i", "m2i", "sd1i", "sd2i")
    n1, n2, m1, m2, s1, s2 = (stroke[c].to_numpy(dtype=float) for c in columns)
    sd = np.sqrt(((n1 - 1) * s1**2 + (n2 - 1) * s2**2) / (n1 + n2 - 2))
    y, v = effects.mean_difference("MD", n1=n1, m1=m1, sd1=sd, n2=n2, m2=m2, sd2=sd)
    assert y.tolist() == [-20, -2, -55, -71, -4, 1, 11, -10, 7]
    expected = [40.59, 2.05, 15.28, 150.22, 20.19, 1.22, 95.38, 8.03, 20.69]
    assert v == pytest.approx(expected, abs=5e-3)
    for method, mean, low, high, tau2 in (
        ("FE", -3.49, -5.03, -1.96, 0.0),
        ("DL", -14.10, -24.45, -3.75, 218.72),
        ("REML", -15.12, -32.67, 2.43, 685.20),
    ):
        pooled = pool(y, v, method=method)
        assert (pooled.mean, pooled.low, pooled.high) == pytest.approx((mean, low, high), abs=5e-3)
        assert pooled.tau2 == pytest.approx(tau2, abs=5e-3)


def test_aucs_are_logits_whatever_they_come_with():
    area = np.array([0.8])
    low, high = expit(logit(0.8) - 1.959964 * 0.3), expit(logit(0.8) + 1.959964 * 0.3)
    y, v = effects.auc_from_interval(area, np.array([low]), np.array([high]))
    assert (y[0], v[0]) == pytest.approx((logit(0.8), 0.09), abs=1e-6)
    _, by_error = effects.auc_effect(area, se=np.array([0.3 * 0.16]))
    assert by_error[0] == pytest.approx(0.09)
    # Newcombe's method 4 by hand: 20 and 30, N = 24, .16 (1 + 24 x .2/1.2 + 24 x .8/1.8) / 600.
    _, by_count = effects.auc_from_counts(area, cases=np.array([20.0]), controls=np.array([30.0]))
    assert by_count[0] == pytest.approx(0.16 * (1 + 4 + 10.6666667) / 600 / 0.16**2)


def test_observed_over_expected_has_the_variance_of_the_events():
    y, v, corrected = effects.oe_effect(np.array([20.0, 0.0]), np.array([10.0, 3.0]))
    assert y == pytest.approx([math.log(2), math.log(0.5 / 3.5)])
    assert v == pytest.approx([1 / 20, 1 / 0.5])
    assert corrected.tolist() == [False, True]


def test_the_binomial_variance_is_what_samples_show():
    # 4,000 hospitals of 200 patients, risk .3: variance of log O is 1/60 - 1/200 = .01167, and the
    # sample's has a standard error of 2.2%; 8% off comes up once in some thousands of seeds.
    rng = np.random.default_rng(1)
    observed = rng.binomial(200, 0.3, size=4000).astype(float)
    y, v, _ = effects.oe_effect(observed, np.full(4000, 60.0), n=np.full(4000, 200.0))
    assert y.var() == pytest.approx(v.mean(), rel=0.08)


@pytest.mark.parametrize("measure", effects.MEASURES)
def test_the_readers_scale_undoes_the_analysis_scale(measure):
    there = {"AUC": expit(0.4)}.get(measure, math.exp(0.4))
    plain = not effects.MEASURES[measure].ratio and measure != "AUC"
    assert effects.back(measure, 0.4) == pytest.approx(0.4 if plain else there)
    assert effects.back(measure, None) is None
