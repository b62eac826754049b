"""From an npz archive to inputs: shapes, values, labels, ids, and archives that are none."""

import io
import pickle

import numpy as np
import pytest

from common.cohort.images import read_images
from common.errors import DataError
from common.study import CohortSchema

LABEL = {"column": "labels", "classes": ["0", "1"]}
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8)).astype(np.uint8)
LABELS = np.array([0, 1, 0, 1])


def schema(*, channels=1, **values):
    image = {"size": 8, "channels": channels}
    return CohortSchema.model_validate({"label": LABEL, "image": image, **values})


@pytest.fixture
def archive(tmp_path):
    """Write arrays, or bytes, as an npz file; return its path."""

    def write(raw=None, **arrays):
        path = tmp_path / "cohort.npz"
        if raw is None:
            np.savez_compressed(path, **arrays)
        else:
            path.write_bytes(raw)
        return path

    return write


def saved(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def test_grey_images_become_one_channel_from_minus_one_to_one(archive):
    images = np.zeros((4, 8, 8), dtype=np.uint8)
    images[0, 1, 2], images[1, 0, 0] = 255, 51
    x, labels, patients, notes = read_images(archive(images=images, labels=LABELS), schema())
    assert x.shape == (4, 1, 8, 8)
    assert x.dtype == np.float32
    assert x[0, 0, 1, 2] == 1.0
    assert x[1, 0, 0, 0] == pytest.approx(51 / 127.5 - 1)
    assert x[2].max() == x.min() == -1.0
    assert labels == ["0", "1", "0", "1"]
    assert len(set(patients)) == 4
    assert notes == []


def test_the_channel_axis_may_be_there(archive):
    three = read_images(archive(images=IMAGES, labels=LABELS), schema())[0]
    four = read_images(archive(images=IMAGES[..., None], labels=LABELS), schema())[0]
    assert np.array_equal(three, four)


def test_colour_goes_first_and_stays_colour(archive):
    # Broken once: a reshape in place of a transpose mixes colours and rows.
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    images[0, 5, 6] = [255, 0, 51]
    x = read_images(archive(images=images, labels=LABELS), schema(channels=3))[0]
    assert x.shape == (4, 3, 8, 8)
    assert x[0, :, 5, 6].tolist() == pytest.approx([1.0, -1.0, 51 / 127.5 - 1])


@pytest.mark.parametrize("labels", [LABELS[:, None], LABELS.astype(str)])
def test_labels_may_be_a_column_or_text(archive, labels):
    assert read_images(archive(images=IMAGES, labels=labels), schema())[1] == ["0", "1", "0", "1"]


@pytest.mark.parametrize("ids", [[7, 7, 8, 9], [[7], [7], [8], [9]], ["7", "7", "8", "9"]])
def test_patient_ids_are_text_whatever_they_were(archive, ids):
    path = archive(images=IMAGES, labels=LABELS, patient=np.array(ids))
    assert read_images(path, schema(patient="patient"))[2] == ["7", "7", "8", "9"]


def test_values_out_of_range_are_clamped_and_counted(archive):
    images = IMAGES.astype(float)
    images[0, 0, 0], images[3, 7, 7] = -5.0, 300.0
    x, _, _, notes = read_images(archive(images=images, labels=LABELS), schema())
    assert (x[0, 0, 0, 0], x[3, 0, 7, 7]) == (-1.0, 1.0)
    assert notes == ["images: 2 values out of [0, 255], clamped"]


BAD_ARRAYS = {
    "wrong size": ({"images": np.zeros((4, 9, 9))}, r"images are \(9, 9, 1\), the study says \(8"),
    "colour": ({"images": np.zeros((4, 8, 8, 3))}, r"images are \(8, 8, 3\), the study says"),
    "flat": ({"images": np.zeros((4, 64))}, r"images are \(64,\), the study says"),
    "a number": ({"images": np.array(1)}, r"images are \(\), the study says"),
    "none": ({"images": IMAGES[:0], "labels": LABELS[:0]}, "is empty"),
    "texts": ({"images": np.full((4, 8, 8), "a")}, "images are of type <U1, not numbers"),
    "complex": ({"images": IMAGES + 1j}, "images are of type complex128"),
    "not finite": ({"images": np.where(np.arange(4) == 2, np.nan, IMAGES.T).T}, "image 3 has"),
    "too few labels": ({"labels": LABELS[:3]}, r"'labels' is \(3,\) for 4 images"),
    "two labels each": ({"labels": np.arange(8)}, r"'labels' is \(8,\) for 4 images"),
    "one label": ({"labels": np.array(1)}, r"'labels' is \(\) for 4 images"),
    "pickled images": ({"images": np.full((4, 8, 8), None)}, "Object arrays cannot be loaded"),
    "pickled labels": ({"labels": np.array([None] * 4)}, "Object arrays cannot be loaded"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_do_not_fit_are_one_clear_message(archive, case):
    # Broken once: eight labels of four images were folded to (4, 2), and every other one was used.
    arrays, message = BAD_ARRAYS[case]
    path = archive(**{"images": IMAGES, "labels": LABELS, **arrays})
    with pytest.raises(DataError, match=message) as caught:
        read_images(path, schema())
    assert "cohort.npz" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("ids", [[1, 2], np.zeros((4, 2)), [1, 2, 3, 4, 5]])
def test_ids_that_are_not_one_an_image_are_refused(archive, ids):
    path = archive(images=IMAGES, labels=LABELS, patient=np.array(ids))
    with pytest.raises(DataError, match=r"'patient' is \(.*\) for 4 images"):
        read_images(path, schema(patient="patient"))


def test_pickled_ids_are_refused(archive):
    path = archive(images=IMAGES, labels=LABELS, patient=np.array(["a", None, "b", "c"]))
    with pytest.raises(DataError, match="pickled objects"):
        read_images(path, schema(patient="patient"))


@pytest.mark.parametrize("absent", ["images", "labels", "patient"])
def test_a_missing_array_is_named(archive, absent):
    arrays = {"images": IMAGES, "labels": LABELS, "patient": LABELS}
    del arrays[absent]
    with pytest.raises(DataError, match=rf"has no array '{absent}' \(it has "):
        read_images(archive(**arrays), schema(patient="patient"))


def npy():
    file = io.BytesIO()
    np.save(file, IMAGES)
    return file.getvalue()


@pytest.mark.parametrize(
    "raw",
    [b"", b"hello", saved(images=IMAGES, labels=LABELS)[:-30], pickle.dumps([1]), npy()],
    ids=["empty", "text", "cut off", "pickle", "a single array"],
)
def test_a_file_that_is_no_archive_is_refused(archive, raw):
    with pytest.raises(DataError, match="not a readable npz archive"):
        read_images(archive(raw), schema())


def test_a_damaged_archive_is_read_or_refused_and_nothing_else(archive):
    # Broken once: a bad byte in the compressed data came out as a bare zlib.error, and one in the
    # directory as NotImplementedError or RuntimeError ("password required").
    raw, refused = saved(images=IMAGES, labels=LABELS), 0
    for at in range(0, len(raw), 3):
        damaged = bytearray(raw)
        damaged[at] ^= 0xFF
        try:
            read_images(archive(bytes(damaged)), schema())
        except DataError:
            refused += 1
    assert refused > len(raw) // 3 // 2


def test_a_missing_archive_and_a_folder_say_so(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_images(tmp_path / "none.npz", schema())
    with pytest.raises(DataError, match=r"not a readable npz archive: .*directory"):
        read_images(tmp_path, schema())
