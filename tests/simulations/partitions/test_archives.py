"""Archives of images become hospitals with classes of their own."""

import os
from pathlib import Path

import numpy as np
import pytest

from common.embedded import find_study
from common.errors import DataError, StudyError
from common.partition_spec import Archives, DealtImages
from common.study import load_study, parse_study
from simulations.partitions.archives import archives
from simulations.partitions.images import dealt_images

DATA = os.environ.get("GRANDROUNDS_DATA")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, size=(12, 8, 8), dtype=np.uint8)
LABELS = np.arange(12) % 3
SITE = {"path": "x.npz", "classes": ["none", "benign", "malignant"], "declared": 10}


def study_of(**cohort):
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    own = {"column": "labels", "own": True, "ways": 4}
    values["cohort"] |= {"features": [], "image": {"size": 8}, "label": own, **cohort}
    return parse_study(values, origin="test")


def cut(folder, study=None, *, site=SITE, **arrays):
    np.savez_compressed(folder / "x.npz", **({"images": IMAGES, "labels": LABELS} | arrays))
    partition = Archives(source="archives", hospitals={"lung": site})
    return archives(study or study_of(), partition, data=folder, folder=folder / "out", seed=0)


def test_a_hospital_has_its_classes_by_name_and_a_patient_an_image(tmp_path):
    (made,) = cut(tmp_path)
    assert (made.name, made.declared) == ("lung", 10)
    assert made.classes == ("none", "benign", "malignant")
    with np.load(made.path) as found:
        assert found["labels"].tolist() == [SITE["classes"][label] for label in LABELS]
        assert (found["images"] == IMAGES).all()
        assert len(set(found["patient"].tolist())) == 12
    named = np.array([f"p{i // 2}" for i in range(12)])
    with np.load(cut(tmp_path, patient=named)[0].path) as found:
        assert found["patient"].tolist() == named.tolist()


def test_some_labels_alone_are_taken(tmp_path):
    site = SITE | {"classes": ["bad", "worse"], "labels": [2, 1]}
    (made,) = cut(tmp_path, site=site)
    with np.load(made.path) as found:
        assert found["labels"].tolist() == ["worse", "bad"] * 4
        assert (found["images"] == IMAGES[LABELS > 0]).all()


def test_copies_are_left_out_and_both_where_their_labels_differ(tmp_path):
    """Fault it is for: an image that trains and evaluates, as its file stands twice."""
    images = IMAGES.copy()
    images[3] = images[0]  # the same label
    images[7] = images[6]  # another one
    with np.load(cut(tmp_path, images=images)[0].path) as found:
        assert len(found["images"]) == 12
    (made,) = cut(tmp_path, images=images, site=SITE | {"drop_copies": True})
    with np.load(made.path) as found:
        kept = [0, 1, 2, 4, 5, 8, 9, 10, 11]
        assert (found["images"] == images[kept]).all()
    assert made.notes == ("copies: 3 exact ones left out",)


def test_a_study_that_names_its_classes_gives_hospitals_none(tmp_path):
    label = {"column": "labels", "classes": ["none", "benign", "malignant"]}
    assert cut(tmp_path, study_of(label=label))[0].classes == ()


COLOUR = np.zeros((12, 8, 8, 3), np.uint8)
BAD = {
    "a class without images": ({"labels": LABELS % 2}, r"'x.npz' is of class 'malignant' \(labels"),
    "another size": ({"images": np.zeros((12, 28, 28), np.uint8)}, "images of 28x28 pixels in 1"),
    "no square": ({"images": np.zeros((12, 28, 40), np.uint8)}, "images of 28x40 pixels in 1"),
    "colour": ({"images": COLOUR}, "8x8 pixels in 3"),
    "another depth": ({"images": IMAGES.astype(np.uint16) * 16}, "not from 0 to 255"),
    "no labels": ({"labels": LABELS[:5]}, r"array 'labels' is \(5,\) for 12 images"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_archive_that_does_not_fit_is_one_message(tmp_path, case):
    """Fault it is for: hospitals whose images were scaled each in its own way, unnoticed."""
    arrays, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        cut(tmp_path, **arrays)
    assert caught.value.remedy


def test_an_archive_without_labels_names_those_it_needs(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", images=IMAGES)
    partition = Archives(source="archives", hospitals={"lung": SITE})
    with pytest.raises(DataError, match="has no array 'labels'") as caught:
        archives(study_of(), partition, data=tmp_path, folder=tmp_path / "out", seed=0)
    assert "images, labels" in caught.value.remedy


@pytest.mark.parametrize(("site", "message"), [
    ({"classes": ["one"]}, "classes"),
    ({"classes": ["one", "one"]}, "name each class once"),
    ({"labels": [0, 1]}, r"labels is \[0, 1\] for 3 classes"),
])  # fmt: skip
def test_a_hospital_of_one_class_is_no_partition(site, message):
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    hospitals = {"lung": SITE | site}
    values["simulation"]["partition"] = {"source": "archives", "hospitals": hospitals}
    with pytest.raises(StudyError, match=message):
        parse_study(values, origin="test")


def dealt(folder, labels, **rules):
    """Deal an archive without patients in which each image stands twice."""
    images = RNG.integers(0, 256, size=(len(labels), 8, 8), dtype=np.uint8)
    twice = {"images": np.repeat(images, 2, axis=0), "labels": np.repeat(labels, 2)}
    np.savez(folder / "x.npz", **twice)
    partition = DealtImages(source="images", path="x.npz", **rules)
    return dealt_images(study_of(), partition, data=folder, folder=folder / "out", seed=1)


def test_records_are_dealt_without_patients_and_without_copies(tmp_path):
    labels = np.arange(300) % 100
    with pytest.raises(DataError, match="has no array 'patient'") as caught:
        dealt(tmp_path, labels)
    assert 'unit = "record"' in caught.value.remedy
    made = dealt(tmp_path, labels, unit="record", drop_copies=True, hospitals=3)
    seen = np.concatenate([np.load(hospital.path)["labels"] for hospital in made])
    assert np.bincount(seen).tolist() == [3] * 100  # each image once, in one hospital


def test_a_hospital_that_is_dealt_one_class_is_refused(tmp_path):
    with pytest.raises(DataError, match="deals patients of one class to hospital 1"):
        dealt(tmp_path, np.zeros(100, int), unit="record", hospitals=2, alpha=1e6)


@pytest.mark.skipif(not DATA, reason="GRANDROUNDS_DATA is not set: no real data here")
def test_three_hundred_and_ninety_four_slices_of_the_brain_stand_twice(tmp_path):
    # 237 files are copies byte for byte; 157 more were saved anew from the same pixels.
    site = {
        "path": "brain_mri/brain_mri_28.npz",
        "classes": ["glioma", "meningioma", "none", "pituitary"],
        "declared": 2800,
        "drop_copies": True,
    }
    partition = Archives(source="archives", hospitals={"brain": site})
    (made,) = archives(
        study_of(image={"size": 28}), partition, data=Path(DATA), folder=tmp_path, seed=0
    )
    with np.load(Path(DATA) / site["path"]) as raw, np.load(made.path) as found:
        once = {one.tobytes() for one in raw["images"]}
        assert len(raw["images"]) - len(set(raw["src_md5"].tolist())) == 237
        assert {one.tobytes() for one in found["images"]} == once
        assert len(found["images"]) == len(once) == 3264 - 394
