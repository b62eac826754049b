"""From a column of outcomes to classes: the study's map, and no other."""

import numpy as np
import pytest

from common.cohort.labels import encode_labels
from common.errors import DataError
from common.study import CohortSchema

AGE = {"name": "age", "range": [0, 100]}
LABEL = {"column": "y", "classes": ["no", "yes"]}


def labels(values, **label):
    rules = {"label": {**LABEL, **label}, "features": [AGE]}
    return encode_labels(values, CohortSchema.model_validate(rules))


def test_labels_are_the_classes_in_the_studys_order():
    found = labels(["yes", "no", "yes"])
    assert found.tolist() == [1, 0, 1]
    assert found.dtype == np.int64
    assert labels(["yes", "no"], classes=["yes", "no"]).tolist() == [0, 1]


def test_a_map_joins_values_into_classes():
    mapping = {"0": "no", "1": "yes", "2": "yes"}
    assert labels(["0", "1", "2", "2.0"], map=mapping).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(("value", "shown"), [("maybe", "'maybe'"), ("", "''"), ("5", "'5'")])
def test_a_label_the_study_does_not_know_is_refused_with_its_record(value, shown):
    with pytest.raises(DataError, match=f"label {shown} in column 'y' .record 2.") as caught:
        labels(["no", value])
    assert "(no, yes)" in caught.value.message
    assert "cohort.label.map" in caught.value.remedy


def test_a_class_that_the_map_does_not_lead_to_by_its_own_name_is_unknown():
    with pytest.raises(DataError, match="label 'yes'"):
        labels(["yes"], map={"0": "no", "1": "yes"})
