"""Random effects: published anchors, a slow twin of the solver, and small numbers of hospitals."""

import json

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm, t

from common.meta_analysis import pool_auc, prediction_interval, random_effects

# The 13 trials of BCG vaccine against tuberculosis, Colditz et al., JAMA 1994, as in metafor's
# dat.bcg: cases and non-cases among the vaccinated, then among the controls.
BCG = np.array(
    [
        (4, 119, 11, 128),
        (6, 300, 29, 274),
        (3, 228, 11, 209),
        (62, 13536, 248, 12619),
        (33, 5036, 47, 5761),
        (180, 1361, 372, 1079),
        (8, 2537, 10, 619),
        (505, 87886, 499, 87892),
        (29, 7470, 45, 7232),
        (17, 1699, 65, 1600),
        (186, 50448, 141, 27197),
        (5, 2493, 3, 2338),
        (27, 16886, 29, 17825),
    ],
    dtype=float,
)


def bcg():
    """Log risk ratios and their variances 1/a - 1/(a+b) + 1/c - 1/(c+d)."""
    a, b, c, d = BCG.T
    ratio = np.log(a / (a + b)) - np.log(c / (c + d))
    return ratio, 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)


def test_bcg_trials_give_metafors_published_figures():
    # metafor, method="PM": -0.7150 (SE 0.1809), tau2 0.3181; Q 152.233, I2 92.1%.
    pooled = random_effects(*bcg())
    assert pooled.mean == pytest.approx(-0.7150, abs=5e-5)
    assert pooled.se == pytest.approx(0.1809, abs=5e-5)
    assert pooled.tau2 == pytest.approx(0.3181, abs=5e-5)
    assert pooled.q == pytest.approx(152.233, abs=5e-4)
    assert pooled.i2 == pytest.approx(0.921, abs=5e-4)
    assert pooled.k == 13
    # Hartung-Knapp: t on 12 degrees of freedom, 2.1788, not the normal quantile.
    assert pooled.high - pooled.mean == pytest.approx(2.1788 * 0.18089, abs=1e-4)
    # Prediction: t on 11, 2.2010, times sqrt(.31807 + .18089^2) = .59230.
    assert pooled.prediction_high - pooled.mean == pytest.approx(2.2010 * 0.59230, abs=1e-4)


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


def test_between_hospital_variance_solves_paule_and_mandels_equation():
    # Slow twin: the generalised Q equals k - 1 at tau2, by bracketing. The solver is
    # within 1e-5 of it.
    rng = np.random.default_rng(3)
    for k in (2, 3, 5, 20):
        y, v = rng.normal(scale=1.0, size=k), rng.uniform(0.005, 0.2, size=k)

        def excess(tau2, y=y, v=v):
            w = 1 / (v + tau2)
            return float(w @ (y - w @ y / w.sum()) ** 2) - (len(y) - 1)

        expected = brentq(excess, 0, 100, xtol=1e-14) if excess(0) > 0 else 0.0
        assert random_effects(y, v).tau2 == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_agreeing_estimates_do_not_shrink_the_interval_to_a_point():
    # Fault: plain Hartung-Knapp gives a standard error of 0 here.
    pooled = random_effects([1.0, 1.0, 1.0, 1.0], [0.4, 0.4, 0.4, 0.4])
    assert (pooled.tau2, pooled.i2) == (0.0, 0.0)
    assert pooled.q == pytest.approx(0, abs=1e-12)
    assert pooled.se == pytest.approx(np.sqrt(0.1))
    assert pooled.high - 1 == pytest.approx(t.isf(0.025, 3) * np.sqrt(0.1))


def test_one_hospital_is_its_own_mean():
    pooled = random_effects([0.7], [0.04])
    assert (pooled.mean, pooled.k, pooled.tau2, pooled.q) == (0.7, 1, 0.0, 0.0)
    assert pooled.high == pytest.approx(0.7 + 1.959964 * 0.2)
    assert pooled.prediction_low is None
    assert pooled.prediction_high is None


def test_two_hospitals_have_a_wide_interval_and_no_prediction():
    pooled = random_effects([0.0, 1.0], [0.1, 0.1])
    # Half the squared difference is .5 = v + tau2, so tau2 = .4; SE = sqrt(.5 / 2); t(1) = 12.706.
    assert pooled.tau2 == pytest.approx(0.4)
    assert pooled.high - 0.5 == pytest.approx(12.7062 * 0.5, abs=1e-4)
    assert pooled.prediction_low is None
    assert pooled.prediction_high is None


@pytest.mark.parametrize(
    ("estimates", "variances"),
    [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([np.nan], [1.0]), ([1.0], [np.inf])],
)
def test_unusable_estimates_are_refused(estimates, variances):
    with pytest.raises(ValueError, match=r"estimates|variances"):
        random_effects(estimates, variances)


def test_unusable_level_is_refused():
    with pytest.raises(ValueError, match="level"):
        random_effects([1.0], [1.0], level=1.0)


def test_pooled_aucs_equal_random_effects_on_the_logit_scale():
    aucs, ses = np.array([0.85, 0.88, 0.7, 0.75]), np.array([0.2, 0.3, 0.25, 0.4])
    z = norm.isf(0.025)
    lows, highs = expit(logit(aucs) - z * ses), expit(logit(aucs) + z * ses)
    pooled = pool_auc(aucs.tolist(), lows.tolist(), highs.tolist())
    expected = random_effects(logit(aucs), ses**2)
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
