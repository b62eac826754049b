"""Alphabets become hospitals whose classes are characters."""

import os
from pathlib import Path

import numpy as np
import pytest

from common.cohort.read import CohortSource, read_cohort
from common.embedded import find_study
from common.errors import DataError, StudyError
from common.study import load_study, parse_study
from simulations.partitions.omniglot import omniglot

DATA = os.environ.get("GRANDROUNDS_DATA")
IMAGES = np.random.default_rng(0).integers(0, 256, size=(40, 8, 8), dtype=np.uint8)
CLASSES = np.array(
    ["Greek/character01", "Greek/character02", "N_(ko)/character01", "X/character01"]
)
ARRAYS = {"images": IMAGES, "labels": np.repeat(np.arange(4), 10), "classes": CLASSES}


def study_of(*archives, size=8, **cohort):
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    label = {"column": "labels", "own": True, "ways": 160}
    values["cohort"] |= {"features": [], "image": {"size": size}, "label": label, **cohort}
    values["simulation"]["partition"] = {"source": "omniglot", "archives": list(archives)}
    return parse_study(values, origin="test")


def cut(folder, rules, *, patient=None, **arrays):
    np.savez_compressed(folder / "x.npz", **(ARRAYS | arrays))
    study = study_of({"path": "x.npz"} | rules, patient=patient)
    partition = study.simulation.partition
    return omniglot(study, partition, data=folder, folder=folder / "out", seed=0)


def test_an_alphabet_is_a_hospital_and_a_rotated_character_another_class(tmp_path):
    (greek,) = cut(tmp_path, {"alphabets": ["Greek"], "rotations": 2})
    assert greek.name == "greek"
    one, two = CLASSES[:2].tolist()
    assert greek.classes == (one, f"{one} at 90", two, f"{two} at 90")
    assert greek.declared == 40
    (drawings,) = cut(tmp_path, {"alphabets": ["Greek"], "rotations": 2}, patient="patient")
    assert drawings.declared == 20
    with np.load(greek.path) as found:
        assert (found["images"][:20] == IMAGES[:20]).all()
        turned = IMAGES[3][:, ::-1].T  # by a quarter against the clock: column 7 becomes row 0
        assert (found["images"][23] == turned).all()
        assert found["labels"][[3, 23]].tolist() == [one, f"{one} at 90"]
        assert found["patient"][3] == found["patient"][23]
        assert len(set(found["patient"].tolist())) == 20


def test_alphabets_together_are_one_hospital_and_others_are_left_out(tmp_path):
    (new,) = cut(tmp_path, {"alphabets": ["N_(ko)", "X"], "together": "new"})
    assert (new.name, new.declared) == ("new", 20)
    assert new.classes == ("N_(ko)/character01", "X/character01")
    with np.load(new.path) as found:
        assert (found["images"] == IMAGES[20:]).all()


BAD = {
    "one character": ({"alphabets": ["N_(ko)"]}, {}, "hospital 'n-ko' has one character"),
    "an alphabet that is not there": ({"alphabets": ["Latin"]}, {}, r"'Latin' \(it has Greek, N_"),
    "labels without a name": ({"alphabets": ["Greek"]}, {"classes": CLASSES[:2]}, r"is \(2,\) and"),
    "another size": ({"alphabets": ["Greek"]}, {"images": np.zeros((40, 9, 9), np.uint8)}, "9x9"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_hospital_is_one_message(tmp_path, case):
    rules, arrays, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        cut(tmp_path, rules, **arrays)
    assert caught.value.remedy


def test_a_hospital_stands_once():
    greek = {"path": "x.npz", "alphabets": ["Greek"]}
    with pytest.raises(StudyError, match="hospital 'greek' stands twice"):
        study_of(greek, greek)
    both = study_of(greek, greek | {"together": "new"}).simulation
    assert (both.partition.hospitals, both.count) == (("greek", "new"), 2)


@pytest.mark.skipif(not DATA, reason="GRANDROUNDS_DATA is not set: no real data here")
def test_the_new_hospital_of_the_second_set_has_106_characters_of_twenty(tmp_path):
    rules = {
        "path": "omniglot/images_background_small2_28.npz",
        "alphabets": ["Japanese_(katakana)", "Sanskrit", "Tagalog"],
        "together": "new",
    }
    study = study_of(rules, size=28)
    (new,) = omniglot(study, study.simulation.partition, data=Path(DATA), folder=tmp_path, seed=0)
    source = CohortSource("new", new.path, new.declared, b"0" * 16, "keyed", new.classes)
    cohort = read_cohort(source, study.cohort)
    y = np.concatenate([cohort.train.y.numpy(), cohort.holdout.y.numpy()])
    assert np.bincount(y).tolist() == [20] * 106
    assert cohort.classes == 106
