"""From an npz archive of images to tensors."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.study import CohortSchema


def read_images(
    path: Path, schema: CohortSchema
) -> tuple[NDArray[np.float32], list[str], list[str] | None]:
    """Read `images`, `labels` and, where the archive has it, `patient`.

    Args:
        path: An npz archive: images (records, size, size) or (records, size, size, channels), values
            0 to 255; labels (records,) or (records, 1); patient (records,), any type.
        schema: Says the size and the channels, and under `patient` the array of ids.

    Returns:
        Inputs, (records, channels, size, size) in [-1, 1]; labels as text; patient ids or None.

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
    x = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / 127.5 - 1.0
    labels = [str(v) for v in arrays[schema.label.column].reshape(len(images), -1)[:, 0]]
    patients = None if schema.patient is None else [str(v) for v in arrays[schema.patient]]
    return np.clip(x, -1.0, 1.0), labels, patients


def _load(path: Path, names: list[str]) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
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
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cohort file {str(path)!r} is not a readable npz archive: {error}",
            remedy="save it with numpy.savez_compressed, without pickled objects",
        ) from None
