"""From an npz archive of images to inputs."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cohort.pixels import UnusableImage, check_sides, encode_image
from common.cohort.records import Records, fingerprint
from common.cohort.schema import CohortSchema, Image
from common.cohort.split import content_ids
from common.errors import DataError

Arrays = dict[str, NDArray[Any]]

# What numpy and zipfile raise on a damaged archive, a foreign compression, or a file that is none.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)


def read_images(path: Path, schema: CohortSchema) -> Records:
    """Read `images`, the labels and, where the study names one, the patients' array.

    MedMNIST's layout is known by its array names: `train_images`, `train_labels` and the same for
    `val` and `test`, which are put together in this order, as a study parts patients itself. Its
    labels are those, whatever label.column says.

    Args:
        path: An npz archive: images (records, height, width) or (records, height, width, channels),
            values 0 to 255; labels and patients (records,) or (records, 1), any type.
        schema: Says what each image becomes, and the arrays of labels and of patient ids.

    Returns:
        The records; patient ids are of the images' own content where the schema names none.

    Raises:
        DataError: the file is missing or malformed, or an array is absent or of the wrong shape.
    """
    image = schema.image
    assert image is not None  # the caller reads an archive for images only
    arrays = _load(path, schema)
    images = arrays["images"]
    if images.ndim == 3:
        images = images[..., None]
    _check_shape(path, images, image)
    _check_numbers(path, images)
    labels = _texts(path, schema.label.column, arrays["labels"], len(images))
    if schema.patient:
        patients = _texts(path, schema.patient, arrays["patients"], len(images))
    else:
        pairs = zip(images, labels, strict=True)
        patients = content_ids(one.tobytes() + label.encode() for one, label in pairs)
    x = np.empty((len(images), *schema.input_shape), dtype=np.float32)
    for record, one in enumerate(images):
        x[record] = encode_image(np.clip(one.astype(np.float32), 0, 255), image)
    return Records(
        x,
        labels,
        patients,
        [fingerprint(one.tobytes()) for one in images],
        np.zeros(len(images), dtype=np.bool_),
        _notes(images, image),
    )


def _notes(images: NDArray[Any], image: Image) -> tuple[str, ...]:
    clamped = int(((images < 0) | (images > 255)).sum())
    notes = [f"images: {clamped} values out of [0, 255], clamped"] if clamped else []
    if images.shape[1:3] != (image.size, image.size):
        height, width = images.shape[1:3]
        notes.append(f"images: {height}x{width} pixels, resized to {image.size}x{image.size}")
    return tuple(notes)


def _check_shape(path: Path, images: NDArray[Any], image: Image) -> None:
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataError(
            f"cohort file {str(path)!r}: an image is {images.shape[1:]}, "
            "not (height, width) or (height, width, 1 or 3)",
            remedy="export grey or colour images, one a record",
        )
    if len(images) == 0:
        raise DataError(f"cohort file {str(path)!r} is empty", remedy="give a file with patients")
    try:
        check_sides(images.shape[1], images.shape[2], image)
    except UnusableImage as error:
        raise DataError(
            f"cohort file {str(path)!r}: each image {error.reason}", remedy=error.remedy
        ) from None


def _check_numbers(path: Path, images: NDArray[np.generic]) -> None:
    if images.dtype.kind not in "buif":
        raise DataError(
            f"cohort file {str(path)!r}: images are of type {images.dtype}, not numbers",
            remedy="export the pixels as numbers from 0 to 255",
        )
    broken = ~np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if broken.any():
        raise DataError(
            f"cohort file {str(path)!r}: image {int(broken.argmax()) + 1} "
            "has pixels that are not finite",
            remedy="mend that image, or leave it out",
        )


def _texts(path: Path, name: str, array: NDArray[Any], records: int) -> list[str]:
    """Return an array of one value a record, (records,) or (records, 1), as text."""
    if array.shape not in ((records,), (records, 1)):
        raise DataError(
            f"cohort file {str(path)!r}: array {name!r} is {array.shape} for {records} images",
            remedy="export one value for each image",
        )
    # NaN, which alone differs from itself, is how a number is missing.
    return ["" if v != v else str(v) for v in array.reshape(records)]


def _load(path: Path, schema: CohortSchema) -> Arrays:
    """Return the arrays images, labels and, where the study names one, patients."""
    try:
        # The file is opened here, as numpy leaves it open where the archive is broken.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return _pick(path, archive, schema)
    except FileNotFoundError:
        raise DataError(
            f"cohort file {str(path)!r} does not exist",
            remedy="check the path, --data and GRANDROUNDS_DATA",
        ) from None
    except _UNREADABLE as error:
        raise DataError(
            f"cohort file {str(path)!r} is not a readable npz archive: {error}",
            remedy="save it with numpy.savez_compressed, without pickled objects",
        ) from None


def _pick(path: Path, archive: Any, schema: CohortSchema) -> Arrays:
    medmnist = "images" not in archive.files and "train_images" in archive.files
    names = {"images": "images", "labels": "labels" if medmnist else schema.label.column}
    if schema.patient:
        names["patients"] = schema.patient
    parts = ("train_", "val_", "test_") if medmnist else ("",)
    absent = [p + n for n in names.values() for p in parts if p + n not in archive.files]
    if absent:
        raise DataError(
            f"cohort file {str(path)!r} has no array {absent[0]!r} "
            f"(it has {', '.join(archive.files)})",
            remedy="add that array, or name it in the study (label.column, cohort.patient)",
        )
    # Parts of different shape do not concatenate: numpy's ValueError says so.
    return {
        key: np.concatenate([archive[p + n] for p in parts]) if medmnist else archive[n]
        for key, n in names.items()
    }
