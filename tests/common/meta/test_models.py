"""Pooling: metafor's published figures on five tables, slow twins of the solvers, few studies."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import chi2, t
from statsmodels.stats.meta_analysis import combine_effects

from common.meta.heterogeneity import METHODS, tau2_interval
from common.meta.models import pool, prediction_interval, weights
from tests.meta_tables import TABLES, table

# BCG, log risk ratio: mean, its standard error, tau2, I2 in percent. metafor's documentation
# (help(rma.uni), Viechtbauer, J Stat Softw 2010); the standard errors of ML and HE are ours.
BCG = {
    "FE": (-0.4303, 0.0405, 0.0, 92.12),
    "DL": (-0.7141, 0.1787, 0.3088, 92.12),
    "PM": (-0.7150, 0.1809, 0.3181, None),
    "REML": (-0.7145, 0.1798, 0.3132, 92.22),
    "ML": (-0.7112, None, 0.2800, None),
    "HE": (-0.7159, None, 0.3286, None),
}


@pytest.mark.parametrize("method", METHODS)
def test_bcg_trials_give_metafors_published_figures(tmp_path, method):
    bcg = table(tmp_path, "bcg", "RR")
    pooled = pool(bcg.y, bcg.v, method=method)
    mean, se, tau2, i2 = BCG[method]
    assert pooled.mean == pytest.approx(mean, abs=5e-5)
    assert pooled.tau2 == pytest.approx(tau2, abs=5e-5)
    assert se is None or pooled.se == pytest.approx(se, abs=5e-5)
    assert i2 is None or 100 * pooled.i2 == pytest.approx(i2, abs=5e-3)
    assert pooled.q == pytest.approx(152.2330, abs=5e-5)
    assert pooled.k == 13


def test_bcg_trials_give_metafors_intervals(tmp_path):
    bcg = table(tmp_path, "bcg", "RR")
    pooled = pool(bcg.y, bcg.v)
    # metafor: H2 12.86; CI -1.0669 to -0.3622; prediction of the ratio .155 to 1.549.
    assert pooled.h2 == pytest.approx(12.86, abs=5e-3)
    assert (pooled.low, pooled.high) == pytest.approx((-1.0669, -0.3622), abs=5e-5)
    ahead = (pooled.prediction_low, pooled.prediction_high)
    assert np.exp(ahead) == pytest.approx([0.155, 1.549], abs=5e-4)
    # confint(rma): tau2 .1197 to 1.1115.
    assert tau2_interval(bcg.y, bcg.v) == pytest.approx((0.1197, 1.1115), abs=5e-5)
    # test="knha": standard error .1808, t on 12 degrees of freedom, 2.1788; prediction by t on 11.
    knapp = pool(bcg.y, bcg.v, test="knha")
    assert knapp.se == pytest.approx(0.1808, abs=5e-5)
    assert knapp.high - knapp.mean == pytest.approx(2.1788 * 0.18079, abs=1e-4)
    width = 2.2010 * math.hypot(0.18079, math.sqrt(0.31324))
    assert knapp.prediction_high - knapp.mean == pytest.approx(width, abs=1e-4)


# metafor's own tests, tests/testthat/test_analysis_example_{raudenbush1985,normand1999}.r, and its
# page 'Assembling Data for a Meta-Analysis of Standardized Mean Differences' (SMD: tau2 .7908).
DOCUMENTED = [
    ("raudenbush1985", None, "REML", {"mean": 0.0837, "tau2": 0.0188, "q": 35.8295}),
    ("normand1999", "SMD", "REML", {"tau2": 0.7908}),
]


@pytest.mark.parametrize(("name", "measure", "method", "expected"), DOCUMENTED)
def test_other_tables_give_metafors_documented_figures(tmp_path, name, measure, method, expected):
    found = table(tmp_path, name, measure)
    pooled = pool(found.y, found.v, method=method)
    for key, value in expected.items():
        assert getattr(pooled, key) == pytest.approx(value, abs=5e-5), key
    if (name, method) == ("raudenbush1985", "REML"):
        assert pooled.mean / pooled.se == pytest.approx(1.6208, abs=5e-5)


def test_passive_smoking_gives_the_published_odds_ratio(tmp_path):
    # Hackshaw, Law and Wald, BMJ 1997: 1.24 (1.13 to 1.36), by DerSimonian and Laird.
    smoking = table(tmp_path, "hackshaw1998", "OR")
    pooled = pool(smoking.y, smoking.v, method="DL")
    ends = np.exp([pooled.mean, pooled.low, pooled.high])
    assert ends == pytest.approx([1.24, 1.13, 1.36], abs=5e-3)


def reml(y, v, tau2, *, restricted):
    """Slow twin: -2 log likelihood of tau2, the mean profiled out."""
    w = 1 / (v + tau2)
    mean = w @ y / w.sum()
    found = -np.log(w).sum() + w @ (y - mean) ** 2
    return found + (np.log(w.sum()) if restricted else 0.0)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("method", ["REML", "ML", "PM", "DL", "HE"])
def test_every_table_agrees_with_an_independent_computation(tmp_path, name, method):
    measure = {"normand1999": "MD", "egger2001": "OR", "bcg": "OR"}.get(name)
    found = table(tmp_path, name, measure)
    y, v, k = found.y, found.v, len(found.y)
    tau2, w = pool(y, v, method=method).tau2, 1 / v
    if method in {"REML", "ML"}:
        top = 20 * y.var()
        rest = {
            "args": (),
            "bounds": (0, top),
            "method": "bounded",
            "options": {"xatol": 1e-10 * top},
        }
        expected = minimize_scalar(lambda x: reml(y, v, x, restricted=method == "REML"), **rest).x
    elif method == "PM":

        def excess(x):
            u = 1 / (v + x)
            return u @ (y - u @ y / u.sum()) ** 2 - (k - 1)

        expected = brentq(excess, 0, 100 * y.var(), xtol=1e-14)
    elif method == "DL":
        q = w @ (y - w @ y / w.sum()) ** 2
        expected = (q - (k - 1)) / (w.sum() - (w**2).sum() / w.sum())
    else:
        expected = max(0.0, y.var(ddof=1) - v.mean())
    assert tau2 == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("name", TABLES)
def test_hartung_knapp_and_q_profile_agree_with_independent_computations(tmp_path, name):
    measure = {"normand1999": "SMD", "egger2001": "RR", "bcg": "RR"}.get(name)
    found = table(tmp_path, name, measure)
    y, v, k = found.y, found.v, len(found.y)
    library = combine_effects(y, v, method_re="chi2")
    assert pool(y, v, method="DL", test="knha").se == pytest.approx(library.sd_eff_w_re_hksj)
    low, high = tau2_interval(y, v)
    for end, share in ((low, 0.975), (high, 0.025)):
        w = 1 / (v + end)
        q = w @ (y - w @ y / w.sum()) ** 2
        # An end of 0 is where even no variance leaves Q below the quantile.
        assert (end == 0 and q < chi2.ppf(share, k - 1)) or q == pytest.approx(
            chi2.ppf(share, k - 1)
        )


def test_prediction_interval_gives_published_figures():
    # BCG, REML and normal quantiles, risk ratio .155 to 1.549 (metafor).
    ends = prediction_interval(-0.7145, se=0.1798, tau2=0.3132, df=np.inf)
    assert np.exp(ends) == pytest.approx([0.155, 1.549], abs=5e-4)
    # Systolic blood pressure, 10 trials, pimeta's Higgins-Thompson-Spiegelhalter interval: mean
    # -0.3340597, tau2 0.02824971, confidence interval -0.5068 to -0.1613 with t on 9 degrees of
    # freedom (2.26216), prediction interval -0.7598 to 0.0917: t on k - 2 = 8.
    se = (0.5068 - 0.1613) / 2 / 2.26216
    ends = prediction_interval(-0.3340597, se=se, tau2=0.02824971, df=8)
    assert ends == pytest.approx([-0.7598, 0.0917], abs=1e-4)


def test_agreeing_estimates_do_not_shrink_the_conservative_interval_to_a_point():
    # Fault: plain Hartung-Knapp gives a standard error of 0 here.
    pooled = pool([1.0] * 4, [0.4] * 4, method="PM", test="adhoc")
    assert (pooled.tau2, pooled.i2) == (0.0, 0.0)
    assert pooled.q == pytest.approx(0, abs=1e-12)
    assert pooled.se == pytest.approx(np.sqrt(0.1))
    assert pooled.high - 1 == pytest.approx(t.isf(0.025, 3) * np.sqrt(0.1))


@pytest.mark.parametrize("test", ["z", "knha", "adhoc"])
def test_one_study_is_its_own_mean(test):
    pooled = pool([0.7], [0.04], test=test)
    assert (pooled.mean, pooled.k, pooled.tau2, pooled.q) == (0.7, 1, 0.0, 0.0)
    assert pooled.high == pytest.approx(0.7 + 1.959964 * 0.2)
    assert pooled.prediction_low is None
    assert pooled.prediction_high is None
    assert tau2_interval(np.array([0.7]), np.array([0.04])) is None


def test_two_studies_have_a_wide_interval_and_no_prediction():
    pooled = pool([0.0, 1.0], [0.1, 0.1], method="PM", test="adhoc")
    # Half the squared difference is .5 = v + tau2, so tau2 = .4; SE = sqrt(.5 / 2); t(1) = 12.706.
    assert pooled.tau2 == pytest.approx(0.4)
    assert pooled.high - 0.5 == pytest.approx(12.7062 * 0.5, abs=1e-4)
    assert pooled.prediction_low is None
    assert pooled.prediction_high is None


def test_a_fixed_effect_predicts_nothing_and_its_i2_is_of_q(tmp_path):
    bcg = table(tmp_path, "bcg", "RR")
    pooled = pool(bcg.y, bcg.v, method="FE")
    assert pooled.prediction_low is None
    assert pooled.i2 == pytest.approx(1 - 12 / 152.233, abs=1e-6)
    assert pooled.h2 == pytest.approx(152.233 / 12, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_units_of_the_effects_do_not_matter(method):
    """Fault it is for: a solver whose tolerance is in the effects' own units."""
    rng = np.random.default_rng(5)
    y, v = rng.normal(size=8), rng.uniform(0.05, 0.4, size=8)
    plain, large = pool(y, v, method=method), pool(1e4 * y, 1e8 * v, method=method)
    assert large.tau2 == pytest.approx(1e8 * plain.tau2, rel=1e-4)
    assert large.mean == pytest.approx(1e4 * plain.mean, rel=1e-4)


def test_weights_are_shares():
    assert weights(np.array([0.1, 0.2, 0.3]), 0.5).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("estimates", "variances"),
    [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([np.nan], [1.0]), ([1.0], [np.inf])],
)
def test_unusable_estimates_are_refused(estimates, variances):
    with pytest.raises(ValueError, match=r"estimates|variances"):
        pool(estimates, variances)


@pytest.mark.parametrize("wrong", [{"level": 1.0}, {"method": "XY"}, {"test": "t"}])
def test_unusable_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        pool([1.0, 2.0], [1.0, 1.0], **wrong)
