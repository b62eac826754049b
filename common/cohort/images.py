"""From an npz archive of images to tensors."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.cohort.split import content_ids
from common.errors import DataError
from common.study import CohortSchema

Texts = list[str]

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


def read_images(
    path: Path, schema: CohortSchema
) -> tuple[NDArray[np.float32], Texts, Texts, Texts]:
    """Read `images`, `labels` and, where the archive has it, `patient`.

    Args:
        path: An npz archive: images (records, size, size) or (records, size, size, channels),
            values 0 to 255; labels and patient (records,) or (records, 1), any type.
        schema: Says the size and the channels, and under `patient` the array of ids.

    Returns:
        Inputs, (records, channels, size, size) in [-1, 1]; labels as text; patient ids, of the
        images' own content where the schema names none; notes on what was clamped.

    Raises:
        DataError: the file is missing or malformed, or an array is absent or of the wrong shape.
    """
    arrays = _load(path, ["images", schema.label.column, *filter(None, [schema.patient])])
    images = arrays["images"]
    image = schema.image
    assert image is not None  # CohortSchema holds it where there are no features
    if images.ndim == 3:
        images = images[..., None]
    expected = (image.size, image.size, image.channels)
    if images.shape[1:] != expected:
        raise DataError(
            f"cohort file {str(path)!r}: images are {images.shape[1:]}, the study says {expected}",
            remedy="export images of the study's size and channels",
        )
    if len(images) == 0:
        raise DataError(f"cohort file {str(path)!r} is empty", remedy="give a file with patients")
    _check_numbers(path, images)
    x = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / 127.5 - 1.0
    clamped = int((np.abs(x) > 1.0).sum())
    notes = [f"images: {clamped} values out of [0, 255], clamped"] if clamped else []
    labels = _texts(path, schema.label.column, arrays, len(images))
    if schema.patient:
        patients = _texts(path, schema.patient, arrays, len(images))
    else:
        pairs = zip(images, labels, strict=True)
        patients = content_ids(image.tobytes() + label.encode() for image, label in pairs)
    return np.clip(x, -1.0, 1.0), labels, patients, notes


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


def _texts(path: Path, name: str, arrays: dict[str, NDArray[np.generic]], records: int) -> Texts:
    """Return an array of one value a record, (records,) or (records, 1), as text."""
    array = arrays[name]
    if array.shape not in ((records,), (records, 1)):
        raise DataError(
            f"cohort file {str(path)!r}: array {name!r} is {array.shape} for {records} images",
            remedy="export one value for each image",
        )
    return [str(v) for v in array.reshape(records)]


def _load(path: Path, names: list[str]) -> dict[str, NDArray[np.generic]]:
    try:
        # The file is opened here, as numpy leaves it open where the archive is broken.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            absent = [n for n in names if n not in archive.files]
            if absent:
                raise DataError(
                    f"cohort file {str(path)!r} has no array {absent[0]!r} "
                    f"(it has {', '.join(archive.files)})",
                    remedy="add that array, or name it in the study (label.column, cohort.patient)",
                )
            return {n: archive[n] for n in names}
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
