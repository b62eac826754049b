"""Figures by what the label is: of survival, of whom they are and what is not told."""

import numpy as np
import pytest
import torch

from common.cohort.parts import Part
from common.cohort.schema import Label
from common.judging import exact_auc, histogram, judge, outcomes
from common.metrics import figures
from common.survival import encode

LABEL = Label(column="t", event="e", classes=("alive", "dead"), edges=(5, 10))
# Event by 10, event after, censored at 10 (known alive), censored before (unknown), event by 10.
CODES = encode(np.array([3, 12, 10, 4, 8]), np.array([1, 1, 0, 0, 1]))
RISK = np.array([0.9, 0.4, 0.6, 0.8, 0.5])
SCORES = np.stack([1 - RISK, RISK], axis=1)


def part_of(codes, patient=None):
    who = torch.arange(len(codes)) if patient is None else torch.tensor(patient)
    return Part(torch.zeros(len(codes), 1), torch.from_numpy(codes), who, int(who.max()) + 1)


def test_the_figures_of_survival_are_of_the_patients_whose_horizon_is_known():
    part = part_of(CODES)
    found = judge(SCORES, part, LABEL)
    assert outcomes(part, LABEL).tolist() == [1, 0, 0, -1, 1]
    known = figures(SCORES[[0, 1, 2, 4]], np.array([1, 0, 0, 1]))
    assert (found.auc, found.brier, found.accuracy) == (known.auc, known.brier, known.accuracy)
    assert exact_auc(SCORES, part, LABEL) == found.auc == 0.75
    assert found.patients == 5
    # The event at 3 is before all four (4 right); the one at 8 before two (over one of them).
    assert found.c_index == pytest.approx((4 + 1) / (4 + 2))


def test_calibration_of_those_alone_who_are_known_is_not_told():
    """Fault it is for: risks that are right for all look too low among those known."""
    found = judge(SCORES, part_of(CODES), LABEL)
    assert found.observed_expected is None
    assert found.calibration_slope is None
    assert found.calibration_intercept is None


def test_scores_that_only_rank_have_no_brier_score():
    found = judge(SCORES, part_of(CODES), LABEL, ranked=True)
    assert found.auc == 0.75
    assert found.c_index is not None
    assert found.brier is found.accuracy is found.log_loss is None


def test_classes_are_judged_as_ever():
    part = part_of(np.array([0, 1, 1, 0, 1]))
    label = Label(classes=("well", "ill"))
    assert judge(SCORES, part, label) == figures(SCORES, part.y.numpy())
    assert judge(SCORES, part, label).c_index is None


def test_one_patient_moves_the_released_histogram_by_one_at_most():
    """Every patient in turn, some with two records of which one is censored before the horizon."""
    patient = np.array([0, 0, 1, 2, 3, 3, 4])
    codes = encode(np.array([3, 4, 12, 10, 4, 4, 8]), np.array([1, 0, 1, 0, 0, 0, 1]))
    risk = np.linspace(0.05, 0.95, 7)
    scores = np.stack([1 - risk, risk], axis=1)
    whole = histogram(scores, part_of(codes, patient.tolist()), LABEL, bins=4)
    assert whole.sum() == 4  # of five patients one is censored before the horizon in all records
    for one in range(5):
        kept = patient != one
        renumbered = np.unique(patient[kept], return_inverse=True)[1].tolist()
        rest = histogram(scores[kept], part_of(codes[kept], renumbered), LABEL, bins=4)
        assert np.abs(whole - rest).sum() <= 1 + 1e-12
        assert (whole - rest).min() >= 0
