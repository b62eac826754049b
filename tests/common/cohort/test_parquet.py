"""From a Parquet file to the text of a CSV file of the same table."""

from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.cohort.parquet import is_parquet, read_parquet
from common.cohort.read import CohortSource, read_cohort
from common.cohort.table import read_table
from common.errors import DataError
from common.study import CohortSchema


@pytest.fixture
def parquet(tmp_path):
    """Write columns as a Parquet file; return its path."""

    def write(columns):
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        pq.write_table(table, tmp_path / "cohort.parquet")
        return tmp_path / "cohort.parquet"

    return write


SHOWN = {  # cells, and what a CSV file shows
    "whole": (pa.array([5, None, -7]), ["5", "", "-7"]),
    "floats": (pa.array([63.0, None, float("nan"), 1e-5]), ["63.0", "", "", "1e-05"]),
    # Broken once: 0.1 in 32 bits was written 0.10000000149011612.
    "narrow floats": (pa.array([0.1, None, 2.0], type=pa.float32()), ["0.1", "", "2.0"]),
    "truth": (pa.array([True, False, None]), ["True", "False", ""]),
    "texts": (pa.array([" a ", "007", None, "NA"]), ["a", "007", "", "NA"]),
    "categories": (pa.array(["b", None, "b"]).dictionary_encode(), ["b", "", "b"]),
    "days": (pa.array([date(2020, 2, 29)]), ["2020-02-29"]),
    "times": (pa.array([datetime(2020, 2, 29, 0, 0)]), ["2020-02-29 00:00:00"]),
    "decimals": (pa.array([Decimal("1.50")]), ["1.50"]),
    "bytes": (pa.array([b"abc"]), ["abc"]),
}


@pytest.mark.parametrize("case", SHOWN)
def test_a_cell_becomes_the_text_that_a_csv_file_shows(parquet, case):
    cells, shown = SHOWN[case]
    frame = read_parquet(parquet({"v": cells, "more": ["x"] * len(cells)}))
    assert frame["v"].tolist() == shown


def test_rows_without_any_value_are_left_out_as_in_a_csv_file(parquet):
    frame = read_parquet(parquet({"a": [None, 1], "b": ["", "x"]}))
    assert frame.to_numpy().tolist() == [["1", "x"]]


RULES = CohortSchema.model_validate(
    {
        "columns": ["only", "for", "files", "without", "a", "header"],
        "label": {"column": "y", "classes": ["0", "1"]},
        "features": [
            {"name": "age", "range": [0, 100], "default": 50, "indicator": True},
            {"name": "pain", "kind": "category", "categories": ["1", "2"]},
        ],
    }
)


def test_a_parquet_file_gives_the_cohort_of_its_csv_file(tmp_path):
    # The same inputs, ids and hence split: neither kind of file may change who evaluates.
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": np.where(rng.random(60) < 0.2, np.nan, rng.normal(50, 20, 60)),
            "unused": rng.random(60).astype(np.float32),
            "pain": rng.integers(1, 4, 60),
            "y": rng.integers(0, 2, 60),
        }
    )
    frame.to_csv(tmp_path / "c.csv", index=False)
    frame.to_parquet(tmp_path / "c.parquet", index=False)
    rules = RULES.model_copy(update={"columns": ()})
    one, other = (
        read_cohort(CohortSource("a", tmp_path / f"c.{kind}", 60, b"key"), rules)
        for kind in ("csv", "parquet")
    )
    assert one.notes == other.notes
    for left, right in ((one.train, other.train), (one.holdout, other.holdout)):
        assert (left.x == right.x).all()
        assert (left.y == right.y).all()
        assert (left.patient == right.patient).all()


def test_columns_go_by_the_files_own_names(parquet):
    frame = read_table(parquet({"y": [0], "pain": [1], "age": [50]}), RULES)
    assert frame.loc[0, ["age", "pain", "y"]].tolist() == ["50", "1", "0"]


def test_the_ending_tells_the_kind(tmp_path):
    endings = [".parquet", ".PQ", ".pq", ".csv", ".data", ""]
    found = [is_parquet(tmp_path / f"c{e}") for e in endings]
    assert found == [True, True, True, False, False, False]


def test_a_column_that_is_not_there_is_named(parquet):
    with pytest.raises(DataError, match=r"no column 'pain' \(it has age, y\)"):
        read_table(parquet({"age": [1], "y": [0]}), RULES)


def test_an_empty_table_is_refused(parquet):
    with pytest.raises(DataError, match="is empty"):
        read_table(
            parquet({"age": pa.array([], pa.int64()), "pain": pa.array([], pa.int64())}), RULES
        )


def test_two_columns_of_one_name_are_refused(parquet):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["age", " age"])
    with pytest.raises(DataError, match="two columns 'age'"):
        read_parquet(parquet(table))


def test_what_is_no_parquet_file_is_refused(tmp_path, parquet):
    raw = parquet({"age": [1, 2, 3], "y": [0, 1, 0]}).read_bytes()
    encrypted = b"PARE" + raw[4:-4] + b"PARE"
    for content in (b"", b"age,y\n1,0\n", raw[:-20], raw[: len(raw) // 2], encrypted):
        (tmp_path / "bad.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.parquet' cannot be read as Parquet") as caught:
            read_parquet(tmp_path / "bad.parquet")
        assert "encrypted" in caught.value.remedy
    with pytest.raises(DataError, match=r"cannot be read as Parquet: .*directory"):
        read_parquet(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_parquet(tmp_path / "none.parquet")
