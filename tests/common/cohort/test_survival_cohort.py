"""Times to an event from a table: codes, splits, new cases, and what is no time."""

import numpy as np
import pytest

from common.cohort.inputs import read_inputs
from common.cohort.read import CohortSource, read_cohort
from common.cohort.split import PART
from common.errors import DataError, StudyError
from common.study import parse_study
from common.survival import decode
from tests.survival_world import csv_text, survival_study


def schema(**label):
    values = survival_study()
    values["cohort"]["label"] = values["cohort"]["label"] | label
    return parse_study(values, origin="a test").cohort


def read(tmp_path, text, *, split="keyed", **label):
    file = tmp_path / "patients.csv"
    file.write_text(text)
    return read_cohort(CohortSource("alpha", file, 60, b"k" * 16, split), schema(**label))


def test_every_patient_has_his_whole_days_and_whether_he_died(tmp_path):
    text = csv_text(part=True)
    cohort = read(tmp_path, text, split="given")
    cells = [line.split(",") for line in text.splitlines()[1:]]
    for part, name in ((cohort.train, "train"), (cohort.holdout, "test")):
        own = sorted((c for c in cells if c[5] == name), key=lambda c: c[0])
        times, events = decode(part.y.numpy())
        order = np.argsort(part.patient.numpy())
        assert times[order].tolist() == [int(float(c[3])) for c in own]
        assert events[order].tolist() == [c[4] == "1.0" for c in own]


def test_the_end_of_a_time_can_be_in_the_files_own_words(tmp_path):
    text = csv_text().replace(",0.0\n", ",seen\n").replace(",1.0\n", ",met\n")
    plain = read(tmp_path, csv_text())
    found = read(tmp_path, text, map={"seen": "alive", "met": "dead"})
    # Rows differ and patients are named, so that the split is the same.
    assert found.train.y.tolist() == plain.train.y.tolist()


def test_the_stratified_split_has_the_same_share_of_events(tmp_path):
    cohort = read(tmp_path, csv_text(), split="stratified")
    shares = [decode(p.y.numpy())[1].mean() for p in (cohort.train, cohort.holdout)]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)


def test_a_split_that_the_file_gives_is_taken_as_it_is(tmp_path):
    cohort = read(tmp_path, csv_text(part=True), split="given")
    assert (cohort.train.patients, cohort.holdout.patients) == (40, 20)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (csv_text(), f"has no column '{PART}'"),
        (csv_text(part=True).replace(",train\n", ",both\n", 1), "'both' in column 'part'"),
        (csv_text(part=True).replace("p1,", "p0,", 1), "'p0' has records of both parts"),
    ],
)
def test_a_split_that_is_none_is_told(tmp_path, text, told):
    with pytest.raises(DataError, match=told):
        read(tmp_path, text, split="given")


@pytest.mark.parametrize("time", ["-1", "", "soon", "nan", "1e12"])
def test_a_time_that_is_none_is_told_with_its_record(tmp_path, time):
    lines = csv_text().splitlines()
    cells = lines[3].split(",")
    lines[3] = ",".join([*cells[:3], time, cells[4]])
    with pytest.raises(DataError, match=r"column 'days' \(record 3\)"):
        read(tmp_path, "\n".join(lines))


def test_an_end_that_the_study_does_not_know_is_told(tmp_path):
    with pytest.raises(DataError, match="label 'lost' in column 'died'"):
        read(tmp_path, csv_text().replace(",0.0\n", ",lost\n", 1))


def test_new_cases_need_neither_a_time_nor_its_end(tmp_path):
    file = tmp_path / "new.csv"
    file.write_text("patient,number,pressure\nx,5,140\n")
    assert read_inputs(file, schema()).x.shape == (1, 2)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"label": {"edges": [200, 100]}}, "increasing times above 0"),
        ({"label": {"edges": []}}, "increasing times above 0"),
        ({"label": {"horizon": 300}}, "horizon is 300: give one of edges"),
        ({"label": {"event": None}}, "event is not given"),
        ({"label": {"event": "days"}}, "both 'days'"),
        ({"label": {"classes": ["a", "b", "c"]}}, "has two classes"),
        ({"label": {"ordinal": True}}, "leave own and ordinal out"),
        ({"model": {"likelihood": "cox"}}, "one patient moves every other's gradient"),
        ({"learner": {"name": "anil"}}, "learnt by reptile, fedavg"),
        ({"learner": {"name": "prototypical"}}, "learnt by reptile, fedavg"),
        ({"model": {"likelihood": "cox"}, "privacy": None, "learner": {"name": "maml"}},
         "learnt by reptile, fedavg"),
    ],
)  # fmt: skip
def test_a_study_of_survival_that_makes_no_sense_is_refused(changes, told):
    rest = {k: v for k, v in changes.items() if k != "label"}
    values = survival_study(**rest)
    label = values["cohort"]["label"] | changes.get("label", {})
    values["cohort"]["label"] = {k: v for k, v in label.items() if v is not None}
    if "edges" in changes.get("label", {}):
        del values["cohort"]["label"]["horizon"]
    with pytest.raises(StudyError, match=told):
        parse_study(values, origin="a test")


def test_cox_without_times_and_images_with_times_are_refused():
    values = survival_study(model={"likelihood": "cox"}, privacy=None)
    values["cohort"]["label"] = {"column": "died", "classes": ["alive", "dead"]}
    with pytest.raises(StudyError, match=r"cohort\.label\.event is not given"):
        parse_study(values, origin="a test")
    values = survival_study()
    del values["cohort"]["features"]
    values["cohort"]["image"] = {"size": 8}
    with pytest.raises(StudyError, match="read from tables only"):
        parse_study(values, origin="a test")


def test_the_horizon_is_the_last_edge_where_none_is_named():
    values = survival_study()
    del values["cohort"]["label"]["horizon"]
    study = parse_study(values, origin="a test")
    assert study.cohort.label.horizon == 400
    with pytest.raises(StudyError, match="sim loho judges classes"):
        study.check_has_classes("sim loho")
