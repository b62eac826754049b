"""How public data are cut into hospitals."""

import numpy as np
import pandas as pd
import pytest

from common.errors import DataError, StudyError
from common.scenario import BreastCancer, ByColumn, DealtImages
from common.study import load_study
from simulations.partitions.breast_cancer import breast_cancer
from simulations.partitions.by_column import by_column
from simulations.partitions.images import dealt_images
from simulations.settings import find_study


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


def archive(folder):
    rng = np.random.default_rng(0)
    patient = np.array([f"p{i // 2:03d}" for i in range(800)])
    labels = rng.integers(0, 3, size=800)
    images = rng.integers(0, 256, size=(800, 8, 8), dtype=np.uint8)
    np.savez(folder / "x.npz", images=images, labels=labels, patient=patient)


def test_images_are_dealt_by_patient_with_skew_and_cameras(study, tmp_path):
    archive(tmp_path)
    partition = DealtImages(
        source="images", path="x.npz", labels=(1, 2), hospitals=4, alpha=3.0,
        gamma=0.3, contrast=0.2, brightness=0.1, blur=1.0, noise=0.05,
    )  # fmt: skip
    made = dealt_images(study, partition, data=tmp_path, folder=tmp_path / "a", seed=1)
    again = dealt_images(study, partition, data=tmp_path, folder=tmp_path / "b", seed=1)
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


def test_an_archive_that_is_not_there_is_refused_by_name(study, tmp_path):
    partition = DealtImages(source="images", path="gone.npz")
    with pytest.raises(DataError, match=r"gone\.npz"):
        dealt_images(study, partition, data=tmp_path, folder=tmp_path, seed=0)
