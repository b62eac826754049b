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
    found = read_images(archive(images=images, labels=LABELS), schema())
    assert found.x.shape == (4, 1, 8, 8)
    assert found.x.dtype == np.float32
    assert found.x[0, 0, 1, 2] == 1.0
    assert found.x[1, 0, 0, 0] == pytest.approx(51 / 127.5 - 1)
    assert found.x[2].max() == found.x.min() == -1.0
    assert found.labels == ["0", "1", "0", "1"]
    assert len(set(found.patients)) == 4
    assert found.notes == ()


def test_the_channel_axis_may_be_there(archive):
    three = read_images(archive(images=IMAGES, labels=LABELS), schema()).x
    four = read_images(archive(images=IMAGES[..., None], labels=LABELS), schema()).x
    assert np.array_equal(three, four)


def test_colour_goes_first_and_stays_colour(archive):
    # Broken once: a reshape in place of a transpose mixes colours and rows.
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    images[0, 5, 6] = [255, 0, 51]
    x = read_images(archive(images=images, labels=LABELS), schema(channels=3)).x
    assert x.shape == (4, 3, 8, 8)
    assert x[0, :, 5, 6].tolist() == pytest.approx([1.0, -1.0, 51 / 127.5 - 1])


def test_colour_becomes_grey_where_the_study_says_so(archive):
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    images[0, 5, 6] = [255, 0, 51]
    x = read_images(archive(images=images, labels=LABELS), schema()).x
    assert x[0, 0, 5, 6] == pytest.approx((0.299 * 255 + 0.114 * 51) / 127.5 - 1)


@pytest.mark.parametrize("shape", [(28, 28), (40, 30), (64, 64, 3), (200, 28, 1)])
def test_images_of_another_size_are_resized_and_noted(archive, shape):
    images = np.full((4, *shape), 255, dtype=np.uint8)
    found = read_images(archive(images=images, labels=LABELS), schema())
    assert found.x.shape == (4, 1, 8, 8)
    assert found.x.max(axis=(1, 2, 3)).tolist() == [1.0] * 4
    assert found.notes == (f"images: {shape[0]}x{shape[1]} pixels, resized to 8x8",)


@pytest.mark.parametrize("labels", [LABELS[:, None], LABELS.astype(str)])
def test_labels_may_be_a_column_or_text(archive, labels):
    found = read_images(archive(images=IMAGES, labels=labels), schema())
    assert found.labels == ["0", "1", "0", "1"]


@pytest.mark.parametrize("ids", [[7, 7, 8, 9], [[7], [7], [8], [9]], ["7", "7", "8", "9"]])
def test_patient_ids_are_text_whatever_they_were(archive, ids):
    path = archive(images=IMAGES, labels=LABELS, patient=np.array(ids))
    assert read_images(path, schema(patient="patient")).patients == ["7", "7", "8", "9"]


def test_an_id_that_is_not_a_number_is_blank(archive):
    # Broken once: all records with the id nan counted as one patient.
    path = archive(images=IMAGES, labels=LABELS, patient=np.array([1.0, np.nan, np.nan, 2.0]))
    assert read_images(path, schema(patient="patient")).patients == ["1.0", "", "", "2.0"]


def test_values_out_of_range_are_clamped_and_counted(archive):
    images = IMAGES.astype(np.int16)
    images[0, 0, 0], images[3, 7, 7] = -5, 300
    found = read_images(archive(images=images, labels=LABELS), schema())
    assert (found.x[0, 0, 0, 0], found.x[3, 0, 7, 7]) == (-1.0, 1.0)
    assert found.notes == ("images: 2 values out of [0, 255], clamped",)


def test_copies_are_known_by_their_pixels_whatever_their_label(archive):
    images = IMAGES[[0, 1, 0, 2]]
    found = read_images(archive(images=images, labels=np.array([0, 0, 1, 1])), schema())
    assert found.contents[0] == found.contents[2]
    assert len(set(found.contents)) == 3
    assert len(set(found.patients)) == 4


def test_an_image_is_encoded_alike_in_any_company(archive):
    # Broken once: a stretch to the set's own darkest and brightest makes each image a statistic.
    maps = [{"kind": "hog", "pixels_per_cell": 4}, {"kind": "pixels", "size": 2}]
    images = np.random.default_rng(1).integers(0, 100, (4, 28, 28))
    rules = CohortSchema.model_validate({"label": LABEL, "image": {"size": 8, "maps": maps}})
    together = read_images(archive(images=images, labels=LABELS), rules).x
    alone = [
        read_images(archive(images=images[[i]], labels=LABELS[[i]]), rules).x for i in range(4)
    ]
    assert together.shape == (4, 36)  # 2 x 2 cells of 8 orientations, and 2 x 2 pixels
    assert np.array_equal(together, np.concatenate(alone))


def medmnist(**changes):
    """MedMNIST's layout: four images parted two, one, one; labels of shape (n, 1)."""
    parts = {"train": slice(0, 2), "val": slice(2, 3), "test": slice(3, 4)}
    arrays = {f"{p}_images": IMAGES[s] for p, s in parts.items()}
    arrays |= {f"{p}_labels": LABELS[s][:, None] for p, s in parts.items()}
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


@pytest.mark.parametrize("column", ["labels", "label"])
def test_medmnists_layout_is_the_three_parts_put_together(archive, column):
    label = {**LABEL, "column": column}
    found = read_images(archive(**medmnist()), schema(label=label))
    plain = read_images(archive(images=IMAGES, labels=LABELS), schema())
    assert np.array_equal(found.x, plain.x)
    assert found.labels == plain.labels
    assert found.patients == plain.patients


@pytest.mark.parametrize("absent", ["val_images", "test_labels"])
def test_a_missing_part_of_medmnists_layout_is_named(archive, absent):
    with pytest.raises(DataError, match=rf"has no array '{absent}' \(it has "):
        read_images(archive(**medmnist(**{absent: None})), schema())


def test_medmnists_layout_has_no_patients_to_name(archive):
    with pytest.raises(DataError, match="has no array 'train_patient'"):
        read_images(archive(**medmnist()), schema(patient="patient"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"val_images": IMAGES[2:3, :7]},
            r"an entry of 'val_images' is \(7, 8\), and one of 'train_images' is \(8, 8\)",
        ),
        ({"test_labels": np.zeros((1, 14))}, r"an entry of 'test_labels' is \(14,\)"),
        ({"test_labels": LABELS[:3, None]}, r"'labels' is \(6, 1\) for 4 images"),
    ],
)
def test_parts_of_medmnists_layout_that_do_not_fit_are_refused(archive, changes, message):
    with pytest.raises(DataError, match=message):
        read_images(archive(**medmnist(**changes)), schema())


BAD_ARRAYS = {
    "too small": ({"images": np.zeros((4, 9, 9))}, "each image is 9x9 pixels; sides of 28 to 8192"),
    "too long": ({"images": np.zeros((4, 28, 8193))}, "each image is 28x8193 pixels; sides"),
    "two channels": ({"images": np.zeros((4, 8, 8, 2))}, r"an image is \(8, 8, 2\), not"),
    "volumes": ({"images": np.zeros((4, 8, 8, 8, 1))}, r"an image is \(8, 8, 8, 1\), not"),
    "flat": ({"images": np.zeros((4, 64))}, r"an image is \(64,\), not"),
    "a number": ({"images": np.array(1)}, r"an image is \(\), not"),
    "none": ({"images": IMAGES[:0], "labels": LABELS[:0]}, "is empty"),
    "texts": ({"images": np.full((4, 8, 8), "a")}, "images are of type <U1, not numbers"),
    "complex": ({"images": IMAGES + 1j}, "images are of type complex128"),
    "floats": ({"images": IMAGES / 255}, "images are of type float64, not whole numbers from 0 to"),
    "not finite": ({"images": np.where(np.arange(4) == 2, np.nan, IMAGES.T).T}, "type float64"),
    "truths": ({"images": IMAGES > 99}, "images are of type bool, not whole numbers"),
    "too few labels": ({"labels": LABELS[:3]}, r"'labels' is \(3,\) for 4 images"),
    "two labels each": ({"labels": np.arange(8)}, r"'labels' is \(8,\) for 4 images"),
    "one label": ({"labels": np.array(1)}, r"'labels' is \(\) for 4 images"),
    "pickled images": ({"images": np.full((4, 8, 8), None)}, "it holds pickled objects"),
    "pickled labels": ({"labels": np.array([None] * 4)}, "it holds pickled objects"),
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
    with pytest.raises(DataError, match="not a readable npz archive") as caught:
        read_images(archive(raw), schema())
    # Broken once: numpy's own words for a text are to load it unsafely, as a pickle.
    assert "pickle" not in str(caught.value)
    assert "unsafe" not in str(caught.value)


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
