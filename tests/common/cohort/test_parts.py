"""Parts of a cohort: records, the patients behind them, and their weights."""

import torch

from common.cohort.parts import Part, join


def part(*patients):
    """One record an entry; the input is the record's number."""
    numbers = torch.arange(float(len(patients)))[:, None]
    index = torch.tensor(patients, dtype=torch.int64)
    return Part(numbers, index % 2, index, len(set(patients)))


def test_a_patients_records_share_one_unit_of_weight():
    # Broken once: a weight of one a record counts a patient of 30 images thirty times.
    weights = part(0, 1, 1, 2, 2, 2, 2).weights
    assert weights.tolist() == [1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert weights.dtype == torch.float64


def test_selected_records_keep_their_patients_under_new_numbers():
    found = part(0, 1, 1, 2).select(torch.tensor([3, 1, 2]))
    assert found.x.flatten().tolist() == [3, 1, 2]
    assert found.patient.tolist() == [1, 0, 0]
    assert found.patients == 2
    assert found.weights.tolist() == [1, 0.5, 0.5]


def test_no_record_is_no_patient():
    found = part(0, 1).select(torch.tensor([], dtype=torch.int64))
    assert (found.patients, len(found.x), found.weights.tolist()) == (0, 0, [])


def test_joined_hospitals_have_no_patient_in_common():
    # Broken once: without the offset, the first patients of two hospitals become one.
    found = join([part(0, 0, 1), part(0, 1), part(0)])
    assert found.patient.tolist() == [0, 0, 1, 2, 3, 4]
    assert found.patients == 5
    assert found.x.flatten().tolist() == [0, 1, 2, 0, 1, 0]
    assert found.y.tolist() == [0, 0, 1, 0, 1, 0]
