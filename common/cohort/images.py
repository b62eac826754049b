"""From an npz archive of images to inputs."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
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
_ZIP, _NPY = b"PK", b"\x93NUMPY"  # how the files begin


def read_images(path: Path, schema: CohortSchema) -> Records:
    """Read `images`, the labels and, where the study names one, the patients' array.

    MedMNIST's layout is known by its array names: `train_images`, `train_labels` and the same for
    `val` and `test`, which are put together in this order, as a study parts patients itself. Its
    labels are those, whatever label.column says.

    Args:
        path: An npz archive: images (records, height, width) or (records, height, width, channels),
            whole numbers 0 to 255; labels and patients (records,) or (records, 1), any type.
        schema: Says what each image becomes, and the arrays of labels and of patient ids.

    Returns:
        The records; patient ids are of the images' own content where the schema names none.

    Raises:
        DataError: the file is missing or malformed, or an array is absent or of the wrong shape.
    """
    image = schema.image
    assert image is not None  # the caller reads an archive for images only
    arrays = load(path, schema)
    images = arrays["images"]
    if images.ndim == 3:
        images = images[..., None]
    check_images(path, images, image)
    labels = one_each(path, schema.label.column, arrays["labels"], len(images))
    if schema.patient:
        patients = one_each(path, schema.patient, arrays["patients"], len(images))
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
        notes(images, image),
    )


def notes(images: NDArray[Any], image: Image) -> tuple[str, ...]:
    """Say what was done to the images of an archive: clamped, resized."""
    notes = list(clamped(images))
    if images.shape[1:3] != (image.size, image.size):
        height, width = images.shape[1:3]
        notes.append(f"images: {height}x{width} pixels, resized to {image.size}x{image.size}")
    return tuple(notes)


def clamped(images: NDArray[Any]) -> tuple[str, ...]:
    """Return a note on the values out of range, if there are any.

    >>> clamped(np.array([[[0, 255, 256]]]))
    ('images: 1 values out of [0, 255], clamped',)
    """
    count = int(((images < 0) | (images > 255)).sum())
    return (f"images: {count} values out of [0, 255], clamped",) if count else ()


def check_images(path: Path, images: NDArray[Any], image: Image) -> None:
    """Refuse an array, (records, height, width, channels), that is not one of images.

    Raises:
        DataError: of another shape, empty, of images too small or too large, or not whole numbers.
    """
    _check_shape(path, images, image)
    _check_numbers(path, images)


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
    """Refuse what may run from 0 to 1: one image could not tell, as it may be black."""
    if images.dtype.kind not in "ui":
        what = "not numbers" if images.dtype.kind not in "bf" else "not whole numbers from 0 to 255"
        raise DataError(
            f"cohort file {str(path)!r}: images are of type {images.dtype}, {what}",
            remedy="save the pixels as whole numbers from 0 to 255 (uint8); where they run from 0 "
            "to 1, multiply them by 255 and round first",
        )


def one_each(
    path: Path, name: str, array: NDArray[Any], records: int, *, what: str = "image"
) -> list[str]:
    """Return an array of one value a record, (records,) or (records, 1), as text.

    Raises:
        DataError: it is of another shape.
    """
    if array.shape not in ((records,), (records, 1)):
        raise DataError(
            f"cohort file {str(path)!r}: array {name!r} is {array.shape} for {records} {what}s",
            remedy=f"export one value for each {what}",
        )
    # NaN, which alone differs from itself, is how a number is missing.
    return ["" if v != v else str(v) for v in array.reshape(records)]


def load(path: Path, schema: CohortSchema) -> Arrays:
    """Return the arrays images, labels and, where the study names one, patients."""
    return read_archive(path, lambda archive: _pick(path, archive, schema))


def read_archive(path: Path, pick: Callable[[Any], Arrays]) -> Arrays:
    """Read what `pick` takes of an npz archive.

    Raises:
        DataError: the file is missing or damaged, is no such archive, or holds pickled objects.
    """
    try:
        # The file is opened here, as numpy leaves it open where the archive is broken.
        with path.open("rb") as file:
            _check_kind(file.read(len(_NPY)))
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return pick(archive)
    except FileNotFoundError:
        raise DataError(
            f"cohort file {str(path)!r} does not exist",
            remedy="check the path: a site's is in its cohort.toml, a simulation's below --data",
        ) from None
    except _UNREADABLE as error:
        reason = "it holds pickled objects" if "allow_pickle" in str(error) else error
        raise DataError(
            f"cohort file {str(path)!r} is not a readable npz archive: {reason}",
            remedy="save it again with numpy.savez_compressed, as plain arrays",
        ) from None


def _check_kind(start: bytes) -> None:
    """Refuse what numpy would take for a pickle, and advise to load unsafely."""
    if start.startswith(_NPY):
        raise ValueError("it is a single array (.npy) and has no names")
    if not start.startswith(_ZIP):
        raise ValueError("it does not begin as one does")


def _pick(path: Path, archive: Any, schema: CohortSchema) -> Arrays:
    medmnist = "images" not in archive.files and "train_images" in archive.files
    names = {"images": "images", "labels": "labels" if medmnist else schema.label.column}
    if schema.patient:
        names["patients"] = schema.patient
    parts = ("train_", "val_", "test_") if medmnist else ("",)
    check_names(path, archive, [p + n for n in names.values() for p in parts])
    if not medmnist:
        return {key: archive[n] for key, n in names.items()}
    return {key: _joined(path, archive, [p + n for p in parts]) for key, n in names.items()}


def check_names(path: Path, archive: Any, names: Sequence[str]) -> None:
    """Refuse an archive without an array of each name.

    Raises:
        DataError: one is absent.
    """
    absent = [name for name in names if name not in archive.files]
    if absent:
        raise DataError(
            f"cohort file {str(path)!r} has no array {absent[0]!r} "
            f"(it has {', '.join(archive.files)})",
            remedy="add that array, or name it in the study (label.column, cohort.patient)",
        )


def _joined(path: Path, archive: Any, names: Sequence[str]) -> NDArray[Any]:
    """Put MedMNIST's parts of an array together."""
    arrays = [archive[name] for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.shape[1:] != arrays[0].shape[1:] or array.ndim == 0:
            raise DataError(
                f"cohort file {str(path)!r}: an entry of {name!r} is {array.shape[1:]}, and one of "
                f"{names[0]!r} is {arrays[0].shape[1:]}",
                remedy="export the three parts of one size and shape",
            )
    return np.concatenate(arrays)
