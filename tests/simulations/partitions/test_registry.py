"""A registry whose patients' ids name their centre becomes hospitals."""

import csv
import os
from pathlib import Path

import pytest

from common.embedded import find_study
from common.errors import DataError
from common.partition_spec import Registry
from common.study import load_study
from simulations.partitions.registry import registry

DATA = os.environ.get("GRANDROUNDS_DATA")
PATIENTS = "id,age\nX-A1-1,50\nX-B2-2,60\nX-C3-3,70\nX-A1-4,80\n"
CENTRES = "code,region\nA1,North\nB2,South\nC3,North\n"
PARTS = "id,fold\nX-A1-1,train\nX-B2-2,test\nX-A1-4,test\n"
SPEC = {
    "source": "registry",
    "path": "patients.csv",
    "patient": "id",
    "place": 2,
    "centres": "centres.csv",
    "centre": "code",
    "column": "region",
    "hospitals": {"north": {"value": "North", "declared": 3},
                  "south": {"value": "South", "declared": 1}},
}  # fmt: skip


def cut(folder, *, patient_rows=PATIENTS, centre_rows=CENTRES, **changes):
    texts = {"patients": patient_rows, "centres": centre_rows, "parts": PARTS}
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    spec = Registry.model_validate(SPEC | changes)
    made = registry(None, spec, data=folder, folder=folder / "out", seed=0)
    return {h.name: (h, read(h.path)) for h in made}


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_patients_go_to_the_region_of_their_centre(tmp_path):
    made = cut(tmp_path)
    assert [row["id"] for row in made["north"][1]] == ["X-A1-1", "X-C3-3", "X-A1-4"]
    assert [row["id"] for row in made["south"][1]] == ["X-B2-2"]
    assert made["north"][0].declared == 3


def test_the_published_split_stands_in_a_column_and_the_others_are_left_out(tmp_path):
    made = cut(tmp_path, parts="parts.csv", part="fold")
    hospital, rows = made["north"]
    assert [(row["id"], row["part"]) for row in rows] == [("X-A1-1", "train"), ("X-A1-4", "test")]
    assert hospital.notes == ("split: 1 patients in neither part left out",)
    assert made["south"][0].notes == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"place": 4}, "'X-A1-1' names no centre"),
        ({"centre_rows": CENTRES.replace("B2", "B3")}, "names centre 'B2', which is in no row"),
        ({"patient_rows": PATIENTS.replace("id", "name")}, "has no column 'id'"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, changes, told):
    with pytest.raises(DataError, match=told):
        cut(tmp_path, **changes)


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="GRANDROUNDS_DATA does not name the data folder")
def test_the_six_regions_are_flambys(tmp_path):
    study = load_study(find_study("brca"))
    made = registry(study, study.simulation.partition, data=Path(DATA), folder=tmp_path, seed=0)
    counts = {}
    for hospital in made:
        parts = [row["part"] for row in read(hospital.path)]
        counts[hospital.name] = (parts.count("train"), parts.count("test"))
    # FLamby's README, Fed-TCGA-BRCA: 311, 196, 206, 162, 162 and 51 patients.
    assert counts == {
        "northeast": (248, 63), "south": (156, 40), "west": (164, 42),
        "midwest": (129, 33), "europe": (129, 33), "canada": (40, 11),
    }  # fmt: skip
