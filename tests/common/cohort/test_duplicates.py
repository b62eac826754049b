"""Exact copies: found by bytes, tied through patients, kept on one side where everybody is seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cohort.duplicates import describe, duplicates, units


def test_copies_are_records_with_the_same_bytes():
    assert duplicates([]) == []
    assert duplicates([b"a", b"b"]) == []
    assert duplicates([b"a", b"b", b"a", b"", b"b", b"a"]) == [[0, 2, 5], [1, 4]]


def test_patients_who_share_a_copy_however_far_are_one_unit():
    # Broken once: ties taken pair by pair leave patient 0 and 3, who share none, apart.
    patient = np.array([0, 1, 1, 2, 2, 3, 4, 5, 5])
    found = units(patient, [[0, 1], [2, 3], [4, 5], [7, 8]], patients=6)
    assert found[:4].tolist() == [found[0]] * 4
    assert len(set(found.tolist())) == 3


def test_without_copies_each_patient_is_a_unit():
    assert units(np.array([0, 0, 1, 2]), [], patients=3).tolist() == [0, 1, 2]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=20))
def test_units_are_the_finest_that_cut_no_group(rows):
    patient = np.unique([p for p, _ in rows], return_inverse=True)[1]
    groups = duplicates(bytes([content]) for _, content in rows)
    count = int(patient.max()) + 1
    found = units(patient, groups, patients=count)
    for group in groups:
        assert len({int(found[patient[record]]) for record in group}) == 1
    slow = list(range(count))  # the plain way: merge until nothing changes
    for group in groups * count:
        least = min(slow[patient[record]] for record in group)
        for record in group:
            slow[patient[record]] = least
    assert (np.unique(slow, return_inverse=True)[1] == found).all()


@pytest.mark.parametrize(
    ("trains", "words"),
    [
        ([1, 1, 0, 0], "copies: 4 exact ones in 2 groups; 0 of them straddle train"),
        ([1, 0, 0, 0], "copies: 4 exact ones in 2 groups; 1 of them straddles train"),
        ([1, 0, 1, 0], "copies: 4 exact ones in 2 groups; 2 of them straddle train"),
    ],
)
def test_the_note_counts_the_groups_that_straddle_the_split(trains, words):
    (note,) = describe([[0, 1], [2, 3]], np.array(trains, dtype=bool))
    assert note.startswith(words)
    assert describe([], np.array(trains, dtype=bool)) == []
