"""Exact figures: hand-derived constants, edges, and agreement with other implementations."""

import json

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from common.metrics import (
    Figures,
    figures,
    fit_logistic,
    mean_figures,
    net_benefit,
    weighted_kappa,
)

NAMES = [name for name in Figures().to_json() if name != "patients"]


def two_columns(risk):
    risk = np.asarray(risk, dtype=float)
    return np.column_stack([1 - risk, risk])


def simulated(patients, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=patients)
    return two_columns(expit(x)), (rng.random(patients) < expit(0.3 + 0.6 * x)).astype(int)


def test_binary_figures_equal_hand_derived_constants():
    # risks .8 .4 | .6 .2 .1 for outcomes 1 1 | 0 0 0.
    # Pairs won by the sick: .8 beats three, .4 beats two: 5 of 6.
    # At one half: .8 found, .4 missed; .6 alarmed, .2 and .1 left alone.
    # Brier: (.04 + .36 + .36 + .04 + .01) / 5 = .162.
    found = figures(two_columns([0.8, 0.4, 0.6, 0.2, 0.1]), np.array([1, 1, 0, 0, 0]))
    assert found.auc == pytest.approx(5 / 6)
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.sensitivity == pytest.approx(1 / 2)
    assert found.specificity == pytest.approx(2 / 3)
    assert found.brier == pytest.approx(0.162)
    assert found.log_loss == pytest.approx(-np.log([0.8, 0.4, 0.4, 0.8, 0.9]).mean())
    assert found.patients == 5


def test_three_class_figures_equal_hand_derived_constants():
    # Calls 0, 0, 1, 2 for labels 0, 1, 1, 2: three of four right.
    # Sensitivity 1, 1/2, 1; specificity 2/3 (class 0: one alarm of three), 1, 1.
    scores = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    found = figures(scores, np.array([0, 1, 1, 2]))
    assert found.accuracy == 0.75
    assert found.sensitivity == pytest.approx((1 + 0.5 + 1) / 3)
    assert found.specificity == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert found.auc == 1.0
    # Squares: .16+.09+.01, .25+.36+.01, .01+.04+.01, .04+.04+.16, summed over classes.
    assert found.brier == pytest.approx((0.26 + 0.62 + 0.06 + 0.24) / 4)
    assert found.calibration_slope is None
    assert found.calibration_intercept is None


def test_figures_agree_with_scikit_learn_and_statsmodels_under_weights():
    scores, labels = simulated(300)
    weights = np.random.default_rng(1).choice([0.25, 0.5, 1.0], size=300)
    found = figures(scores, labels, weights)
    risk = scores[:, 1]
    assert found.auc == pytest.approx(roc_auc_score(labels, risk, sample_weight=weights))
    assert found.brier == pytest.approx(brier_score_loss(labels, risk, sample_weight=weights))
    assert found.log_loss == pytest.approx(log_loss(labels, scores, sample_weight=weights))
    # Weights that are whole numbers mean repeated rows: statsmodels on the repeated rows.
    rows = np.repeat(np.arange(300), (4 * weights).astype(int))
    x = logit(risk[rows])
    line = sm.Logit(labels[rows], sm.add_constant(x)).fit(disp=0)
    assert found.calibration_slope == pytest.approx(line.params[1], abs=1e-6)
    level = sm.GLM(labels[rows], np.ones(len(x)), family=sm.families.Binomial(), offset=x).fit()
    assert found.calibration_intercept == pytest.approx(level.params[0], abs=1e-6)


def test_a_patients_records_together_weigh_one_patient():
    # Fault: a patient with 50 images counts 50 times.
    risk, labels = [0.9, 0.2, 0.4], [1, 0, 1]
    once = figures(two_columns(risk), np.array(labels))
    many = figures(
        two_columns(risk + [0.4] * 49),
        np.array(labels + [1] * 49),
        np.array([1, 1] + [1 / 50] * 50),
    )
    a, b = once.to_json(), many.to_json()
    assert all(b[name] == pytest.approx(a[name]) for name in a if a[name] is not None)


def test_one_half_is_positive_so_a_zero_model_calls_everyone_sick():
    found = figures(two_columns([0.5, 0.5]), np.array([0, 1]))
    assert (found.sensitivity, found.specificity, found.accuracy) == (1.0, 0.0, 0.5)
    assert found.auc == 0.5


@pytest.mark.parametrize("classes", [2, 4])
def test_nobody_gives_no_figure(classes):
    empty = np.zeros((0, classes)), np.zeros(0, dtype=int)
    assert figures(*empty) == Figures()
    masses = figures(np.full((3, classes), 1 / classes), np.zeros(3, dtype=int), np.zeros(3))
    assert masses == Figures()


def test_one_class_only_leaves_what_needs_two_undefined():
    found = figures(two_columns([0.2, 0.7]), np.array([1, 1]))
    assert found.auc is None
    assert found.specificity is None
    assert found.calibration_slope is None
    assert found.calibration_intercept is None
    assert found.sensitivity == 0.5
    assert found.accuracy == 0.5


def test_absent_classes_do_not_enter_macro_means():
    scores = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]])
    found = figures(scores, np.array([0, 1]))
    assert (found.auc, found.sensitivity, found.specificity) == (1.0, 1.0, 1.0)


def test_scores_that_are_not_numbers_count_as_zero():
    scores = np.array([[np.nan, np.nan], [0.3, np.inf], [2.0, -1.0]])
    found = figures(scores, np.array([0, 1, 0]))
    assert found.auc == 1.0
    assert found.brier == 0.0
    assert all(v is None or np.isfinite(v) for v in found.to_json().values())


def test_separated_outcomes_have_no_calibration_slope():
    found = figures(two_columns([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert found.calibration_slope is None
    assert found.auc == 1.0
    constant = figures(two_columns([0.3] * 4), np.array([0, 0, 1, 1]))
    assert constant.calibration_slope is None  # a constant score has no slope, but a level:
    assert constant.calibration_intercept == pytest.approx(-logit(0.3))  # mean .5 = expit(a + x)


def test_figures_are_plain_json():
    scores, labels = simulated(50)
    text = json.dumps(figures(scores.astype(np.float32), labels).to_json(), allow_nan=False)
    assert set(json.loads(text)) == {*NAMES, "patients"}


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "word"),
    [
        (np.zeros((3, 1)), np.zeros(3), None, "classes"),
        (np.zeros(3), np.zeros(3), None, "records"),
        (np.zeros((3, 2)), np.zeros(2), None, "labels"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), None, "labels"),
        (np.zeros((3, 2)), np.array([0, 1, -1]), None, "labels"),
        (np.zeros((2, 2)), np.array([0, 1]), np.array([1.0, -1.0]), "weights"),
        (np.zeros((2, 2)), np.array([0, 1]), np.array([1.0, np.nan]), "weights"),
    ],
)
def test_bad_arguments_are_named(scores, labels, weights, word):
    with pytest.raises(ValueError, match=word):
        figures(scores, labels, weights)


def test_means_skip_undefined_figures_and_weigh_by_patients_on_request():
    parts = [
        Figures(auc=0.6, accuracy=0.5, patients=10),
        Figures(auc=None, accuracy=0.9, patients=30),
        Figures(auc=0.9, accuracy=0.7, patients=20),
    ]
    plain, weighted = mean_figures(parts), mean_figures(parts, weighted=True)
    assert plain.auc == pytest.approx(0.75)
    assert plain.accuracy == pytest.approx(0.7)
    assert weighted.auc == pytest.approx((0.6 * 10 + 0.9 * 20) / 30)
    assert weighted.accuracy == pytest.approx((5 + 27 + 14) / 60)
    assert plain.patients == 60
    assert plain.brier is None
    assert mean_figures([]) == Figures()
    assert mean_figures([Figures(), Figures()], weighted=True) == Figures()


def test_net_benefit_equals_hand_derived_constants():
    # At .25 the odds are 1/3. Treated: .8 .4 (sick), .6 (healthy): (2 - 1/3) / 5.
    # Treat all: (2 - 3/3) / 5.
    scores, labels = two_columns([0.8, 0.4, 0.6, 0.2, 0.1]), np.array([1, 1, 0, 0, 0])
    (row,) = net_benefit(scores, labels, [0.25])
    assert row["value"] == pytest.approx((2 - 1 / 3) / 5)
    assert row["treat_all"] == pytest.approx(1 / 5)
    assert net_benefit(scores[:0], labels[:0], [0.25])[0]["value"] is None


def test_net_benefit_needs_two_classes_and_proper_thresholds():
    with pytest.raises(ValueError, match="classes"):
        net_benefit(np.zeros((1, 3)), np.zeros(1))
    with pytest.raises(ValueError, match="thresholds"):
        net_benefit(np.zeros((1, 2)), np.zeros(1), [1.0])


def test_logistic_fit_has_the_closed_form_of_a_two_by_two_table():
    # Exposed 30 of 40, unexposed 10 of 40: intercept log(10/30), slope log(9).
    design = np.array([[1.0, 0.0], [1.0, 1.0]])
    fitted = fit_logistic(design, np.array([10.0, 30.0]), np.array([30.0, 10.0]))
    assert fitted is not None
    assert fitted[0] == pytest.approx([np.log(1 / 3), np.log(9)])
    # Information of the exposed cell alone stands in the corner: 40 * .75 * .25.
    assert fitted[1][1, 1] == pytest.approx(7.5)


def test_logistic_fit_gives_up_without_a_finite_solution():
    one = np.ones((1, 1))
    assert fit_logistic(one, np.array([3.0]), np.array([0.0])) is None
    assert fit_logistic(one, np.array([0.0]), np.array([0.0])) is None
    assert fit_logistic(one, np.array([-3.0]), np.array([1.0])) is None


def test_kappa_of_grades_equals_a_hand_derived_constant():
    # Given 0 1 2 1 for true 0 1 2 2: one miss by one grade, so sum w O = 1. Margins 1 1 2 (true)
    # and 1 2 1 (given) expect (0: 2 + 4, 1: 1 + 1, 2: 2 (4 + 2)) / 4 = 20 / 4: kappa 1 - 1/5.
    graded, labels = np.array([0, 1, 2, 1]), np.array([0, 1, 2, 2])
    assert weighted_kappa(graded, labels, np.ones(4)) == pytest.approx(0.8)
    # A miss by two grades costs four times as much: 4, of margins 1 1 2 and 2 1 1. Expected
    # (0: 1 + 4, 1: 2 + 1, 2: 2 (8 + 1)) / 4 = 26 / 4.
    assert weighted_kappa(np.array([0, 1, 2, 0]), labels, np.ones(4)) == pytest.approx(1 - 16 / 26)


def test_kappa_weighs_patients_and_keeps_the_place_of_a_grade_that_nobody_has():
    # Fault: grades 0, 2 and 3 alone would be numbered 0, 1 and 2.
    rng = np.random.default_rng(3)
    labels, graded = rng.choice([0, 2, 3], 60), rng.choice([0, 2, 3], 60)
    weights = rng.choice([0.25, 0.5, 1.0], 60)
    w = (labels[:, None] - graded) ** 2 * weights[:, None] * weights
    expected = 1 - weights.sum() * (weights * (labels - graded) ** 2).sum() / w.sum()
    assert weighted_kappa(graded, labels, weights) == pytest.approx(expected)


def test_only_grades_have_a_kappa_and_one_grade_has_none():
    scores, labels = np.eye(3)[[0, 1, 2, 1]], np.array([0, 1, 2, 2])
    assert figures(scores, labels).kappa is None
    assert figures(scores, labels, ordinal=True).kappa == pytest.approx(0.8)
    assert figures(np.eye(3)[[1, 1]], np.array([1, 1]), ordinal=True).kappa is None
    assert figures(np.eye(3)[[1, 1]], np.array([0, 1]), ordinal=True).kappa == 0.0
