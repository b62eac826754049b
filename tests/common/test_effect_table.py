"""What is counted for an effect, and that one patient moves it by no more than the price says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.cohort.parts import Part
from common.effect_table import effect_table
from tests.effect_world import MEAN, effect_study

STUDY, MEANS = effect_study(), effect_study(effect=MEAN)
ARMS = {"drug": (1.0, 0.0), "placebo": (0.0, 1.0), "neither": (0.0, 0.0), "both": (1.0, 1.0)}


def part(rows):
    """Return a part of rows (patient, age on [-1, 1], arm, class)."""
    x = torch.tensor([[age, *ARMS[arm]] for _, age, arm, _ in rows], dtype=torch.float32)
    y = torch.tensor([row[3] for row in rows])
    names = sorted({row[0] for row in rows})
    index = torch.tensor([names.index(row[0]) for row in rows])
    return Part(x.reshape(len(rows), 3), y, index, len(names))


def count(study, rows):
    return effect_table(part(rows), study.effect, study.cohort)


def test_patients_are_counted_by_arm_and_outcome():
    rows = [("a", 0, "drug", 0), ("b", 0, "drug", 1), ("c", 0, "drug", 1), ("d", 0, "placebo", 0)]
    assert count(STUDY, rows).tolist() == [[[1, 2], [1, 0]]]


def test_a_patients_records_weigh_one_together_and_who_is_in_no_arm_counts_nowhere():
    rows = [("a", 0, "drug", 0), ("a", 0, "drug", 1), ("b", 0, "neither", 1)]
    assert count(STUDY, rows).tolist() == [[[0.5, 0.5], [0, 0]]]


def test_a_record_of_both_arms_counts_once():
    # '3' and '3.0' are one number: a study may name both. For: a patient who counted twice.
    assert count(STUDY, [("a", 0, "both", 1)]).tolist() == [[[0, 1], [0, 0]]]


def test_means_are_counted_on_the_range_from_minus_one_to_one():
    rows = [("a", -1, "drug", 1), ("b", 0.5, "drug", 1), ("c", 1, "drug", 0)]
    assert count(MEANS, rows).tolist() == [[[2, -0.5, 1.25], [1, 1, 1]]]


def test_a_number_keeps_its_range_under_a_scale_of_the_studys_own():
    feature = {"name": "age", "range": [0, 100], "center": 40, "scale": 10}
    study = effect_study(effect=MEAN, cohort={"features": [feature]})
    x = torch.tensor([[6.0], [1000.0], [float("nan")]])  # 100; what no reader gives, clipped
    one = Part(x, torch.tensor([1, 1, 0]), torch.arange(3), 3)
    assert effect_table(one, study.effect, study.cohort)[0, :, 1].tolist() == [2.0, 0.0]


@pytest.mark.parametrize("study", [STUDY, MEANS], ids=["table", "mean"])
def test_one_patient_moves_the_table_by_at_most_its_sensitivity(study):
    """Neighbours: every patient of many, with up to four records, taken out.

    For: a record that weighs one, another patient's mass that moves, an age beyond its range.
    """
    rng = np.random.default_rng(3)
    arms = list(ARMS)
    most = 0.0
    for _ in range(60):
        rows = [
            (f"p{p}", rng.choice([-1.0, 1.0, rng.uniform(-9, 9)]), arms[rng.integers(4)],
             int(rng.integers(2)))
            for p in range(5) for _ in range(rng.integers(1, 5))
        ]  # fmt: skip
        whole = count(study, rows)
        for gone in range(5):
            rest = count(study, [row for row in rows if row[0] != f"p{gone}"])
            most = max(most, float(np.linalg.norm(whole - rest)))
    assert most <= study.effect.sensitivity + 1e-9
    assert most == pytest.approx(study.effect.sensitivity)  # and it is reached


def test_nobody_is_a_table_of_zeros():
    empty = Part(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64),
                 torch.zeros(0, dtype=torch.int64), 0)  # fmt: skip
    for study in (STUDY, MEANS):
        table = effect_table(empty, study.effect, study.cohort)
        assert table.shape == study.effect.shape
        assert not table.any()
