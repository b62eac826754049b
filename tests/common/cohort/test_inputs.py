"""New cases: read as the study's patients are, without an outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.cohort.images import read_images
from common.cohort.inputs import read_inputs, read_patients
from common.cohort.schema import CohortSchema
from common.cohort.table import read_table_records
from common.errors import DataError

LABEL = {"classes": ["well", "ill"]}
FEATURES = [
    {"name": "age", "range": [0, 100], "indicator": True},
    {"name": "pain", "kind": "category", "categories": ["2", "3"]},
]


def table(**changes: Any) -> CohortSchema:
    return CohortSchema(**{"patient": "id", "label": LABEL, "features": FEATURES, **changes})


def pictures(**changes: Any) -> CohortSchema:
    return CohortSchema(**{"patient": "id", "label": LABEL, "image": {"size": 8}, **changes})


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_table_without_outcomes_is_encoded_as_one_with_them(tmp_path: Path) -> None:
    rows = [("a", "50", "2", "ill"), ("b", "", "3", "well"), ("c", "140", "1", "ill")]
    full = write(tmp_path / "full.csv", "id,age,pain,label\n" + "\n".join(map(",".join, rows)))
    bare = write(tmp_path / "bare.csv", "id,age,pain\n" + "\n".join(",".join(r[:3]) for r in rows))
    found = read_inputs(bare, table())
    np.testing.assert_array_equal(found.x, read_table_records(full, table()).x)
    assert found.patients == ["a", "b", "c"]
    assert found.incomplete.tolist() == [False, True, False]


def test_what_is_missing_out_of_range_or_unlisted_is_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "new.csv", "id,age,pain\na,140,2\nb,,9\nc,-1,\nd,30,9\n")
    assert read_inputs(file, table()).notes == (
        "age: 2 out of [0, 100], clamped",
        "age: 1 missing",
        "pain: 1 missing",
        "pain: 2 of no listed category, taken as the reference",
    )


def test_an_outcome_that_is_there_is_not_looked_at(tmp_path: Path) -> None:
    file = write(tmp_path / "new.csv", "id,age,pain,label\na,50,2,not known yet\n")
    assert read_inputs(file, table()).x.shape == (1, 4)


@pytest.mark.parametrize("line", ["a,50,2", "a,50,2,ill"])
def test_a_table_without_a_header_may_leave_the_outcome_out(tmp_path: Path, line: str) -> None:
    schema = table(columns=("id", "age", "pain", "label"))
    found = read_inputs(write(tmp_path / "new.csv", line + "\n"), schema)
    assert found.patients == ["a"]
    assert found.x.tolist() == [[0.0, 0.0, 1.0, 0.0]]


def test_parquet_reads_as_csv(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a"], "age": [50.0], "pain": [2]}).to_parquet(tmp_path / "new.parquet")
    assert read_inputs(tmp_path / "new.parquet", table()).x.tolist() == [[0.0, 0.0, 1.0, 0.0]]


def test_an_archive_of_images_needs_no_labels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    ids = np.array(["a", "b", "b"])
    np.savez(tmp_path / "new.npz", images=images, id=ids)
    np.savez(tmp_path / "full.npz", images=images, id=ids, label=np.array(["ill"] * 3))
    found = read_inputs(tmp_path / "new.npz", pictures())
    np.testing.assert_array_equal(found.x, read_images(tmp_path / "full.npz", pictures()).x)
    assert found.patients == ["a", "b", "b"]


def test_an_index_of_images_needs_no_labels(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "one.png")
    file = write(tmp_path / "new.csv", "id,file\na,one.png\n")
    found = read_inputs(file, pictures())
    assert found.patients == ["a"]
    assert found.x.shape == (1, 1, 8, 8)
    assert (found.x == 1).all()


def test_a_study_without_ids_gives_none(tmp_path: Path) -> None:
    file = write(tmp_path / "new.csv", "age,pain\n50,2\n")
    assert read_inputs(file, table(patient=None)).patients is None


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("absent.csv", None, "input file .*absent.csv' does not exist"),
        ("new.csv", "id,age\na,5\n", "input file .* has no column 'pain'"),
        ("new.csv", "id,age,pain\na,old,2\n", "'old' in record 1 is not a number"),
        ("new.csv", "", "input file .* is empty"),
        ("new.npz", "", "holds images, and the study expects a table"),
    ],
)
def test_input_that_does_not_fit_is_told(
    tmp_path: Path, name: str, text: str | None, says: str
) -> None:
    if text is not None:
        write(tmp_path / name, text)
    with pytest.raises(DataError, match=says):
        read_inputs(tmp_path / name, table())


def test_an_archive_that_is_none_is_told(tmp_path: Path) -> None:
    write(tmp_path / "new.npz", "no zip")
    with pytest.raises(DataError, match=r"input file .* is not a readable npz archive"):
        read_inputs(tmp_path / "new.npz", pictures())


def test_patients_of_a_cohort_are_read_without_decoding_an_image(tmp_path: Path) -> None:
    index = write(tmp_path / "cohort.csv", "id,file,label\na,absent.png,ill\nb,absent.png,well\n")
    assert read_patients(index, pictures()) == ["a", "b"]
    black = np.zeros((2, 8, 8), np.uint8)
    np.savez(tmp_path / "c.npz", images=black, id=[7, 8], label=["ill", "well"])
    assert read_patients(tmp_path / "c.npz", pictures()) == ["7", "8"]


def test_patients_without_ids_are_known_by_content_as_the_split_knows_them(tmp_path: Path) -> None:
    file = write(tmp_path / "cohort.csv", "age,pain,label\n50,2,ill\n60,2,ill\n50,2,ill\n")
    schema = table(patient=None)
    found = read_patients(file, schema)
    assert found == read_table_records(file, schema).patients
    assert found[2].endswith("-1")
    np.savez(tmp_path / "c.npz", images=np.zeros((2, 8, 8), np.uint8), label=["ill", "well"])
    schema = pictures(patient=None)
    assert read_patients(tmp_path / "c.npz", schema) == (
        read_images(tmp_path / "c.npz", schema).patients
    )


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_one_image_file_is_one_case(tmp_path: Path, ending: str) -> None:
    pixels = np.full((8, 8), 200, np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"new.{ending}")
    (tmp_path / f"new.{ending}").rename(tmp_path / "new")  # the kind is told by the bytes
    found = read_inputs(tmp_path / "new", pictures())
    assert found.x.shape == (1, 1, 8, 8)
    assert found.x.max() == pytest.approx(200 / 127.5 - 1, abs=0.02)
    assert (found.patients, found.incomplete.tolist(), found.notes) == (None, [False], ())


def test_an_image_that_cannot_be_read_or_is_not_wanted_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "new.png")
    with pytest.raises(DataError, match="is an image, and the study expects a table"):
        read_inputs(tmp_path / "new.png", table())
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(DataError, match=r"input file '.*small\.png' is 9x9 pixels"):
        read_inputs(tmp_path / "small.png", pictures())
    (tmp_path / "text.png").write_text("id,file\n")
    with pytest.raises(DataError, match="does not begin as a PNG, JPEG or DICOM file does"):
        read_inputs(tmp_path / "text.png", pictures())
