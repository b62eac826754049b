"""Reviews of the literature become hospitals of counted words."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from common.cohort.read import CohortSource, read_cohort
from common.embedded import find_study
from common.errors import DataError, StudyError
from common.partition_spec import Reviews
from common.study import load_study, parse_study
from simulations.partitions.reviews import reviews

DATA = os.environ.get("GRANDROUNDS_DATA")
COUNTS = np.random.default_rng(0).poisson(0.4, size=(40, 50)).astype(float)
LABELS = (np.arange(40) % 5 == 0).astype(np.uint8)
NAMES = np.array(["Statins"] * 25 + ["ADHD"] * 15)


def study_of(**cohort):
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    label = {"column": "label", "classes": ["0", "1"]}
    texts = {"features": [], "text": {"words": 50, "size": 10}, "patient": None, "label": label}
    values["cohort"] |= texts | cohort
    return parse_study(values, origin="test")


def cut(folder, study=None, *, hospitals=("adhd", "statins"), **changes):
    unit = csr_array(COUNTS / np.linalg.norm(COUNTS, axis=1, keepdims=True))
    arrays = {"data": unit.data.astype(np.float16), "indices": unit.indices.astype(np.uint16)}
    arrays |= {"indptr": unit.indptr, "shape": np.array(unit.shape)}
    arrays |= {"label": LABELS, "review": NAMES} | changes
    np.savez_compressed(folder / "x.npz", **{k: v for k, v in arrays.items() if v is not None})
    declared = dict.fromkeys(hospitals, 10)
    partition = Reviews(source="reviews", path="x.npz", hospitals=declared)
    return reviews(study or study_of(), partition, data=folder, folder=folder / "out", seed=0)


def test_a_review_is_a_hospital_with_the_words_of_its_abstracts(tmp_path):
    made = cut(tmp_path)
    assert [(h.name, h.declared) for h in made] == [("adhd", 10), ("statins", 10)]
    for hospital, mine in zip(made, (NAMES == "ADHD", NAMES == "Statins"), strict=True):
        with np.load(hospital.path) as found:
            matrix = csr_array((found["data"], found["indices"], found["indptr"]), found["shape"])
            assert ((matrix.toarray() > 0) == (COUNTS[mine] > 0)).all()
            assert (found["label"] == LABELS[mine]).all()
        source = CohortSource(hospital.name, hospital.path, 10, b"0" * 16)
        cohort = read_cohort(source, study_of().cohort)
        assert cohort.train.patients + cohort.holdout.patients == mine.sum()


BAD = {
    "no review of that name": ({"hospitals": ("ssris",)}, "no abstract .* adhd, statins"),
    "one label": ({"label": LABELS * 0}, "abstracts of one label only"),
    "no labels": ({"label": None}, "has no array 'label'"),
    "other labels": ({"label": LABELS[:3]}, r"array 'label' is \(3,\) for 40 abstracts"),
    "a broken matrix": ({"shape": np.array([40, 3])}, "holds no whole CSR matrix"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_archive_that_makes_no_reviews_is_one_message(tmp_path, case):
    changes, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        cut(tmp_path, **changes)
    assert caught.value.remedy


def test_a_study_of_a_table_takes_no_texts(tmp_path):
    with pytest.raises(StudyError, match="the study expects none"):
        cut(tmp_path, load_study(find_study("breast_cancer")))


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="GRANDROUNDS_DATA is not set: no real data here")
def test_cohens_reviews_have_15268_abstracts_of_which_761_are_included(tmp_path):
    study = load_study(find_study("screening"))
    made = reviews(study, study.simulation.partition, data=Path(DATA), folder=tmp_path, seed=0)
    labels = [np.load(hospital.path)["label"] for hospital in made]
    assert len(made) == 14
    assert (sum(map(len, labels)), sum(int(y.sum()) for y in labels)) == (15268, 761)
    assert all(h.declared <= len(y) for h, y in zip(made, labels, strict=True))
