"""From a CSV file to inputs: declared constants alone, and one clear message for a misfit."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cohort.table import encode_features, incomplete, read_table
from common.errors import DataError
from common.study import CohortSchema

AGE = {"name": "age", "range": [0, 100]}
LABEL = {"column": "y", "classes": ["no", "yes"]}


def schema(*features, **values):
    return CohortSchema.model_validate({"label": LABEL, "features": features or [AGE], **values})


@pytest.fixture
def table(tmp_path):
    """Write a text as a CSV file and read it by a schema."""

    def read(text, rules=None):
        path = tmp_path / "cohort.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(path, rules or schema())

    return read


def encode(values, feature, **rules):
    frame = pd.DataFrame({feature.get("column", feature["name"]): values}, dtype=str)
    return encode_features(frame, schema(feature, **rules))


# Reading.


def test_a_file_with_a_header_is_read_by_its_names(table):
    frame = table("y,age,more\nno,50,a\nyes,60,b\n")
    assert frame["age"].tolist() == ["50", "60"]
    assert frame["y"].tolist() == ["no", "yes"]


def test_a_file_without_a_header_is_read_by_the_studys_columns(table):
    # Broken once: a first patient taken for the header.
    frame = table("50,no\n60,yes\n", schema(columns=["age", "y"]))
    assert frame["age"].tolist() == ["50", "60"]


@pytest.mark.parametrize(
    "text",
    [
        "age,y\r\n50,no\r\n60,yes\r\n",
        "\ufeffage,y\n50,no\n60,yes\n",
        "age,y\n50,no\n60,yes",
        "age,y\n\n50,no\n\n60,yes\n\n,\n",
        " age , y \n 50 , no \n 60 , yes \n",
        'age,y\n"50","no"\n60, "yes"\n',
    ],
    ids=["CRLF", "byte order mark", "no last newline", "empty lines", "spaces", "quotes"],
)
def test_what_exporting_programs_do_to_a_file_does_not_matter(table, text):
    frame = table(text)
    assert frame.columns.tolist() == ["age", "y"]
    assert frame.to_numpy().tolist() == [["50", "no"], ["60", "yes"]]


def test_values_stay_text_until_the_study_says_what_they_are(table):
    # Broken once: type guessing turns the id 007 into 7, and 'NA' of one column into nan.
    frame = table("id,age,y\n007,NA,no\n7,1e2,no\n", schema(patient="id"))
    assert frame["id"].tolist() == ["007", "7"]
    assert frame["age"].tolist() == ["NA", "1e2"]


BAD_FILES = {  # content, and what the message must say
    "empty": ("", "is empty"),
    "only newlines": ("\n\n", "is empty"),
    "header only": ("age,y\n", "is empty"),
    "no label column": ("age,z\n50,no\n", r"has no column 'y' \(it has age, z\)"),
    "no feature column": ("years,y\n50,no\n", r"has no column 'age'"),
    "semicolons": ("age;y\n50;no\n", r"has no column 'age' \(it has age;y\)"),
    "a line too long": ("age,y\n50,no\n60,yes,1\n", "line 3: 3 values for 2 columns"),
    "all lines too long": ("age,y\n50,no,1\n60,yes,1\n", "line 2: 3 values for 2 columns"),
    "a line too short": ("age,y\n50,no\n\n60\n", "line 4: 1 values for 2 columns"),
    "two columns of one name": ("age,y,age\n50,no,60\n", "two columns 'age'"),
    "an open quote": ('age,y\n"50,no\n', "cannot be read as CSV"),
    "Latin-1": ("age,y\n50,n\xf6\n".encode("latin-1"), "cannot be read as CSV: 'utf-8'"),
    "binary": (b"\x1f\x8b\x08\x00rest", "cannot be read as CSV"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_does_not_fit_is_one_clear_message(table, case):
    # Broken once: pandas drops the last value where every line has one too many, with a warning
    # that a site never sees, and fills lines that are too short.
    text, message = BAD_FILES[case]
    with pytest.raises(DataError, match=message) as caught:
        table(text)
    assert "cohort.csv" in caught.value.message
    assert caught.value.remedy


def test_the_patient_column_must_be_there(table):
    with pytest.raises(DataError, match="has no column 'id'"):
        table("age,y\n50,no\n", schema(patient="id"))


def test_a_path_that_is_missing_or_a_folder_says_so(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv' does not exist") as caught:
        read_table(tmp_path / "none.csv", schema())
    assert "--data" in caught.value.remedy
    with pytest.raises(DataError, match=r"cannot be read as CSV: .*directory"):
        read_table(tmp_path, schema())


# Numbers.


def test_a_range_maps_to_minus_one_to_one():
    found, notes = encode(["0", "50", "100", "7.5e1"], AGE)
    assert found.tolist() == [[-1], [0], [1], [0.5]]
    assert notes == []


def test_center_and_scale_are_the_studys():
    found, _ = encode(["14", "21"], {**AGE, "center": 14, "scale": 3.5})
    assert found.tolist() == [[0], [2]]


def test_what_is_out_of_range_is_clamped_and_counted():
    # Broken once: an unclamped 1e9 makes one patient's gradient the whole sum before the clip.
    found, notes = encode(["-1", "100", "1e9", "inf", "50"], AGE)
    assert found.tolist() == [[-1], [1], [1], [1], [0]]
    assert notes == ["age: 3 out of [0, 100], clamped"]


def test_what_is_missing_takes_the_default_and_is_counted():
    found, notes = encode(["", "?", "NA", "100"], {**AGE, "default": 75})
    assert found.tolist() == [[0.5], [0.5], [0.5], [1]]
    assert notes == ["age: 3 missing"]


def test_without_a_default_what_is_missing_takes_the_center():
    assert encode([""], AGE)[0].tolist() == [[0]]
    assert encode([""], {**AGE, "center": 40, "scale": 10})[0].tolist() == [[0]]


def test_an_indicator_says_what_was_missing():
    found, _ = encode(["", "50"], {**AGE, "default": 100, "indicator": True})
    assert found.tolist() == [[1, 1], [0, 0]]


def test_a_feature_has_missing_values_of_its_own():
    # 0 means missing for cholesterol, and zero for the ST depression.
    found, notes = encode(["0", "-9", "50"], {**AGE, "missing": ["0"]}, missing=["-9"])
    assert found.tolist() == [[0], [0], [0]]
    assert notes == ["age: 2 missing"]


@pytest.mark.parametrize("value", ["old", "1,5", "nan", "True", "0x10", "1_0"])
def test_what_is_no_number_is_refused_with_its_record(value):
    with pytest.raises(DataError, match=f"'age': '{value}' in record 2 is not a number") as caught:
        encode(["50", value], AGE)
    assert "cohort.missing" in caught.value.remedy


# Categories and missingness.

PAIN = {"name": "pain", "kind": "category", "categories": ["1", "4", "typical"]}


def test_a_category_becomes_one_input_for_each_listed_value():
    found, notes = encode(["1", "4", "typical", "9"], PAIN)
    assert found.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert notes == []


def test_numbers_are_the_same_category_however_they_are_written():
    # Broken once: a hospital that writes 4.0 would have no patient of category 4.
    found, _ = encode(["4.0", "4", "04", "4e0", "4.5", "14"], PAIN)
    assert found[:, 1].tolist() == [1, 1, 1, 1, 0, 0]


def test_a_missing_category_is_none_of_them_or_the_default():
    assert encode(["?"], PAIN)[0].tolist() == [[0, 0, 0]]
    assert encode(["?"], {**PAIN, "default": "typical"})[0].tolist() == [[0, 0, 1]]
    assert encode(["?"], {**PAIN, "default": 4})[0].tolist() == [[0, 1, 0]]
    found, _ = encode(["?", "1"], {**PAIN, "indicator": True})
    assert found.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


def test_missingness_itself_is_an_input():
    feature = {"name": "chol-missing", "column": "chol", "kind": "missing", "missing": ["0"]}
    found, notes = encode(["0", "233", "?", "abc"], feature)
    assert found.tolist() == [[1], [0], [1], [0]]
    assert notes == ["chol-missing: 2 missing"]


def test_inputs_stand_in_the_order_of_the_features():
    rules = schema(PAIN, {**AGE, "indicator": True})
    frame = pd.DataFrame({"age": ["", "100"], "pain": ["4", "1"]}, dtype=str)
    assert encode_features(frame, rules)[0].tolist() == [[0, 1, 0, 0, 1], [1, 0, 0, 1, 0]]
    assert rules.input_shape == (5,)


# No statistic of the patients.

EVERYTHING = schema(
    {**AGE, "indicator": True, "default": 10},
    {**AGE, "name": "dose", "center": 3, "scale": 7},
    {**PAIN, "default": "1"},
    {"name": "test", "kind": "missing"},
)
NUMBER = st.sampled_from(["", "?", "NA", "-0", "1e400", "18446744073709551616"]) | (
    st.integers(-(2**70), 2**70).map(str) | st.floats(allow_nan=False).map(str)
)
PAINS = st.sampled_from(["", "?", "1", "1.0", "4", "x"])
ROWS = st.lists(st.tuples(NUMBER, NUMBER, PAINS, st.text(max_size=3)), min_size=1, max_size=8)


def inputs(rows):
    frame = pd.DataFrame(rows, columns=["age", "dose", "pain", "test"], dtype=str)
    return encode_features(frame, EVERYTHING)[0]


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=100)
@given(ROWS)
def test_a_record_is_encoded_alike_in_any_company(rows):
    # Broken once: standardising by the column's mean makes every input a statistic of all patients.
    together = inputs(rows)
    alone = np.concatenate([inputs([row]) for row in rows])
    assert np.array_equal(together, alone)
    assert np.isfinite(together).all()
    assert (np.abs(together[:, 0]) <= 1).all()


# Complete cases.


def test_a_record_is_incomplete_where_a_declared_feature_is_missing():
    # Broken once: a missing value in a column that no feature reads left the patient out.
    frame = pd.DataFrame(
        {"age": ["50", "", "50", "0", "50"], "pain": ["1", "1", "-9", "4", "9"], "ca": [""] * 5},
        dtype=str,
    )
    rules = schema(AGE, {**PAIN, "missing": ["-9"]})
    assert incomplete(frame, rules).tolist() == [False, True, True, False, False]
