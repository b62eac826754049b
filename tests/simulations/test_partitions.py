"""How public data are cut into hospitals."""

import numpy as np
import pandas as pd
import pytest

from common.embedded import find_study
from common.errors import DataError, StudyError
from common.partition_spec import BreastCancer, ByColumn, DealtImages
from common.study import load_study, parse_study
from simulations.partitions.breast_cancer import breast_cancer
from simulations.partitions.by_column import by_column
from simulations.partitions.images import dealt_images


@pytest.fixture
def study():
    return load_study(find_study("breast_cancer"))


def test_breast_cancer_uses_each_patient_once_and_is_seeded(study, tmp_path):
    made = [
        breast_cancer(study, study.simulation.partition, data=None, folder=tmp_path / n, seed=s)
        for n, s in (("a", 3), ("b", 3), ("c", 4))
    ]
    tables = [[pd.read_csv(h.path) for h in hospitals] for hospitals in made]
    ids = [p for t in tables[0] for p in t["patient"]]
    assert len(ids) == len(set(ids)) == 569
    sizes = {h.name: len(t) for h, t in zip(made[0], tables[0], strict=True)}
    assert sizes["university"] == 215
    assert sizes["island"] == 44
    assert all(x.equals(y) for x, y in zip(tables[0], tables[1], strict=True))
    assert not any(x.equals(y) for x, y in zip(tables[0], tables[2], strict=True))


def test_instruments_differ_between_hospitals_and_outcomes_are_real(study, tmp_path):
    plain = BreastCancer(source="breast_cancer", hospitals=study.simulation.partition.hospitals)
    real = breast_cancer(study, plain, data=None, folder=tmp_path / "real", seed=0)
    seen = breast_cancer(
        study, study.simulation.partition, data=None, folder=tmp_path / "seen", seed=0
    )
    truth = pd.concat([pd.read_csv(h.path) for h in real]).set_index("patient")
    for hospital in seen:
        table = pd.read_csv(hospital.path).set_index("patient")
        assert (table["diagnosis"] == truth.loc[table.index, "diagnosis"]).all()
        assert not np.allclose(table["radius"], truth.loc[table.index, "radius"])
        assert (table.drop(columns="diagnosis") >= 0).all().all()


def test_a_partition_of_too_many_patients_is_refused(study, tmp_path):
    hospitals = study.simulation.partition.hospitals
    doubled = BreastCancer(
        source="breast_cancer",
        hospitals=hospitals
        + tuple(h.model_copy(update={"name": f"{h.name}-2"}) for h in hospitals),
    )
    with pytest.raises(StudyError, match=r"takes 424 positive"):
        breast_cancer(study, doubled, data=None, folder=tmp_path, seed=0)


def test_a_column_names_the_hospitals(study, tmp_path):
    (tmp_path / "all.csv").write_text("id,site,x\n1,A,5\n2,B,6\n3,A,7\n4,C,8\n")
    sites = {"alpha": {"value": "A", "declared": 2}, "beta": {"value": "B", "declared": 1}}
    partition = ByColumn(source="column", path="all.csv", column="site", hospitals=sites)
    made = by_column(study, partition, data=tmp_path, folder=tmp_path / "out", seed=0)
    assert [h.name for h in made] == ["alpha", "beta"]
    assert pd.read_csv(made[0].path)["id"].tolist() == [1, 3]
    missing = partition.model_copy(update={"column": "centre"})
    with pytest.raises(DataError, match="no column 'centre'"):
        by_column(study, missing, data=tmp_path, folder=tmp_path, seed=0)
    sites["gamma"] = {"value": "Z", "declared": 5}
    empty = ByColumn(source="column", path="all.csv", column="site", hospitals=sites)
    with pytest.raises(DataError, match="hospital 'gamma'"):
        by_column(study, empty, data=tmp_path, folder=tmp_path, seed=0)


@pytest.mark.parametrize(("lines", "message"), [
    ("id,site,x\n1,A,5\n2,A,6,7\n", r"partition file .*, line 3: 4 values for 3 columns"),
    ("id,site,x\n1,A,5,\n2,A,6,\n", r"line 2: 4 values for 3 columns"),
])  # fmt: skip
def test_a_cell_too_many_is_refused_in_any_line(study, tmp_path, lines, message):
    """Fault it is for: where every line has one, pandas took the first column for an index."""
    (tmp_path / "all.csv").write_text(lines)
    sites = {"alpha": {"value": "A", "declared": 2}}
    partition = ByColumn(source="column", path="all.csv", column="site", hospitals=sites)
    with pytest.raises(DataError, match=message) as caught:
        by_column(study, partition, data=tmp_path, folder=tmp_path / "out", seed=0)
    assert "quotes" in caught.value.remedy


@pytest.fixture
def pictures():
    """A study of images of 8 pixels."""
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    values["cohort"] |= {"features": [], "image": {"size": 8}}
    return parse_study(values, origin="test")


def arrays(**changes):
    rng = np.random.default_rng(0)
    found = {
        "images": rng.integers(0, 256, size=(800, 8, 8), dtype=np.uint8),
        "labels": rng.integers(0, 3, size=800),
        "patient": np.array([f"p{i // 2:03d}" for i in range(800)]),
    }
    return {k: v for k, v in (found | changes).items() if v is not None}


def archive(folder, **changes):
    np.savez_compressed(folder / "x.npz", **arrays(**changes))


def deal(study, folder, **rules):
    partition = DealtImages(source="images", path="x.npz", hospitals=4, **rules)
    return dealt_images(study, partition, data=folder, folder=folder / "out", seed=1)


def test_images_are_dealt_by_patient_with_skew_and_cameras(pictures, tmp_path):
    archive(tmp_path)
    partition = DealtImages(
        source="images", path="x.npz", labels=(1, 2), hospitals=4, alpha=3.0,
        gamma=0.3, contrast=0.2, brightness=0.1, blur=1.0, noise=0.05,
    )  # fmt: skip
    made = dealt_images(pictures, partition, data=tmp_path, folder=tmp_path / "a", seed=1)
    again = dealt_images(pictures, partition, data=tmp_path, folder=tmp_path / "b", seed=1)
    parts = [dict(np.load(h.path)) for h in made]
    owners = {}
    for number, part in enumerate(parts):
        assert set(part["labels"]) <= {1, 2}
        for patient in part["patient"]:
            assert owners.setdefault(patient, number) == number
    for hospital, part, other in zip(made, parts, again, strict=True):
        assert 0 < hospital.declared <= len(set(part["patient"]))
        assert hospital.declared % 10 == 0
        assert all((part[k] == v).all() for k, v in np.load(other.path).items())
    shares = [float((p["labels"] == 2).mean()) for p in parts]
    assert max(shares) - min(shares) > 0.1


BAD_ARRAYS = {
    "labels of another length": ({"labels": np.zeros(799)}, r"'labels' is \(799,\) for 800 images"),
    "patients of another length": ({"patient": np.zeros(3)}, r"'patient' is \(3,\) for 800"),
    "flat images": ({"images": np.zeros((100, 784), np.uint8)}, r"an image is \(784,\), not"),
    "no patients": ({"patient": None}, "has no array 'patient'"),
    "no labels": ({"labels": None}, "has no array 'labels'"),
    "labels that are words": ({"labels": np.full(800, "ill")}, "a label is no number"),
    "floats": ({"images": np.zeros((800, 8, 8))}, "of type float64, not whole numbers from 0 to"),
    "pickled": ({"labels": np.array([None] * 800)}, "it holds pickled objects"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_cannot_be_dealt_are_one_message(pictures, tmp_path, case):
    """Fault it is for: an IndexError or ValueError of numpy's, half way through."""
    changes, message = BAD_ARRAYS[case]
    archive(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        deal(pictures, tmp_path)
    assert caught.value.message.startswith("partition file ")
    assert "label.column" not in caught.value.remedy  # the partition reads these names alone


@pytest.mark.parametrize("damage", ["cut", "text", "single", "bytes"])
def test_a_file_that_is_no_whole_archive_is_refused(pictures, tmp_path, damage):
    """Fault it is for: BadZipFile and zlib.error as they are, and advice to load a pickle."""
    archive(tmp_path)
    path = tmp_path / "x.npz"
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        raw = raw[:-400]
    elif damage == "text":
        raw = bytearray(b"see the other folder")
    elif damage == "bytes":
        raw[2000:2100] = bytes(100)
    path.write_bytes(raw)
    if damage == "single":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="not a readable npz archive") as caught:
        deal(pictures, tmp_path)
    assert "pickle" not in str(caught.value)


def test_deep_images_are_clamped_and_noted(pictures, tmp_path):
    images = arrays()["images"].astype(np.uint16)
    images[0] = 4095
    archive(tmp_path, images=images)
    notes = [note for hospital in deal(pictures, tmp_path) for note in hospital.notes]
    assert notes == ["images: 64 values out of [0, 255], clamped"]


def test_a_study_of_a_table_takes_no_images(study, tmp_path):
    archive(tmp_path)
    with pytest.raises(StudyError, match="the study expects a table"):
        deal(study, tmp_path)


def test_an_archive_that_is_not_there_is_refused_by_name(pictures, tmp_path):
    partition = DealtImages(source="images", path="gone.npz")
    with pytest.raises(DataError, match=r"gone\.npz"):
        dealt_images(pictures, partition, data=tmp_path, folder=tmp_path, seed=0)
