"""The rows of one table, CSV or ARFF, dealt to hospitals."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.cohort.read import CohortSource, read_cohort
from common.embedded import find_study
from common.errors import DataError, StudyError
from common.study import load_study, parse_study
from simulations.partitions.rows import dealt_rows

DATA = os.environ.get("GRANDROUNDS_DATA")
ARFF = """% what a computer saw
@relation eyes
@attribute V0 {0,1}
@attribute 'V1' numeric
@attribute Class {1,0}
@data
"""
ROWS = [f"{i % 2},{i}.5,{int(i % 3 == 0)}" for i in range(120)]


def study_of(path, *, label="Class", **cohort):
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    values["cohort"] |= {
        "patient": None,
        "features": [{"name": "V1", "range": [0, 120]}],
        "label": {"column": label, "classes": ["0", "1"]},
        **cohort,
    }
    rules = {"source": "rows", "path": path, "hospitals": 3, "alpha": 5.0}
    values["simulation"]["partition"] = rules
    return parse_study(values, origin="test")


def cut(folder, study, *, seed=0, **rules):
    partition = study.simulation.partition.model_copy(update=rules)
    return dealt_rows(study, partition, data=folder, folder=folder / f"out-{seed}", seed=seed)


def table_of(made):
    return pd.concat([pd.read_csv(h.path, dtype=str) for h in made])


def test_each_row_is_in_one_hospital_as_it_stands_and_the_seed_says_where(tmp_path):
    (tmp_path / "eyes.arff").write_text(ARFF + "\n".join(ROWS) + "\n0,?,1\n")
    study = study_of("eyes.arff", missing=[""])
    made, other = cut(tmp_path, study), cut(tmp_path, study, seed=1)
    whole = table_of(made)
    assert sorted(whole["V1"].dropna()) == sorted(f"{i}.5" for i in range(120))
    assert whole["V1"].isna().sum() == 1  # '?' of ARFF is an empty cell of CSV
    of_row = whole.dropna().set_index("V1")["Class"]
    assert all(of_row[f"{i}.5"] == str(int(i % 3 == 0)) for i in range(120))
    sizes = [len(pd.read_csv(h.path)) for h in made]
    assert [h.declared for h in made] == [size // 10 * 10 for size in sizes]
    assert [h.name for h in made] == ["hospital-1", "hospital-2", "hospital-3"]
    assert sizes != [len(pd.read_csv(h.path)) for h in other]
    site = made[0]
    cohort = read_cohort(CohortSource("a", site.path, site.declared, b"0" * 16), study.cohort)
    assert cohort.train.patients + cohort.holdout.patients == sizes[0]


def test_a_csv_without_a_header_stays_without_and_patients_stay_whole(tmp_path):
    lines = [f"p{i // 4},{i},{int(i % 5 == 0)}" for i in range(240)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    columns = ["who", "V1", "Class"]
    study = study_of("t.csv", columns=columns, patient="who")
    made = cut(tmp_path, study)
    tables = [pd.read_csv(h.path, names=columns) for h in made]
    assert sum(len(t) for t in tables) == 240
    owners = [set(t["who"]) for t in tables]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 60


def test_rows_that_stand_twice_are_taken_once_where_the_study_says_so(tmp_path):
    (tmp_path / "eyes.arff").write_text(ARFF + "\n".join(ROWS + ROWS[:7]) + "\n")
    study = study_of("eyes.arff")
    assert len(table_of(cut(tmp_path, study))) == 127
    assert len(table_of(cut(tmp_path, study, drop_copies=True))) == 120


BAD = {
    "no file": ("gone.arff", None, "partition file .*gone.arff' does not exist"),
    "no ARFF": ("x.arff", "a,b\n1,2\n", "cannot be read as ARFF"),
    "text attributes": ("x.arff", ARFF.replace("numeric", "string"), "cannot be read as ARFF"),
    "no outcome": ("x.csv", "V1\n" + "1\n" * 30, "has no column 'Class'"),
    "another outcome": ("x.csv", "V1,Class\n" + "1,2\n" * 30, "label '2' in column 'Class'"),
    "few": ("x.csv", "V1,Class\n1,0\n2,1\n", "deals [01] patients to hospital 1"),
    "one outcome": ("x.csv", "V1,Class\n" + "1,0\n" * 90, "patients of one class to hospital 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_table_that_cannot_be_dealt_is_one_message(tmp_path, case):
    name, text, message = BAD[case]
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        cut(tmp_path, study_of(name), alpha=1e6)
    assert caught.value.remedy


def test_a_study_of_images_takes_no_rows(tmp_path):
    study = study_of("x.csv", features=[], image={"size": 8})
    with pytest.raises(StudyError, match="deals rows of a table"):
        cut(tmp_path, study)


@pytest.mark.skipif(not DATA, reason="GRANDROUNDS_DATA is not set: no real data here")
def test_the_eyes_of_messidor_are_dealt_without_the_five_that_stand_twice(tmp_path):
    study = load_study(find_study("retinopathy"))
    partition = study.simulation.partition
    made = dealt_rows(study, partition, data=Path(DATA), folder=tmp_path, seed=0)
    cohorts = [
        read_cohort(CohortSource(h.name, h.path, h.declared, b"0" * 16), study.cohort) for h in made
    ]
    parts = [part for c in cohorts for part in (c.train, c.holdout)]
    assert sum(part.patients for part in parts) == 1151 - 5
    x = np.concatenate([part.x.numpy() for part in parts])
    assert x.shape[1] == 19
    clamped = [note for c in cohorts for note in c.notes if "clamped" in note]
    assert sum(int(note.split(": ")[1].split()[0]) for note in clamped) < 30  # of 21,774 values
