"""The archives of images that partitions read, and those that they write."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cohort.images import check_images, one_each, read_archive
from common.cohort.records import fingerprint
from common.cohort.schema import Image
from common.cohort.split import content_ids
from common.errors import DataError, StudyError
from common.files import write_atomic
from common.study import Study
from simulations.partitions.types import of_partition


@dataclass(frozen=True)
class Pictures:
    """Images with their labels and patients.

    Attributes:
        images: (records, height, width[, channels]), whole numbers.
        labels: (records,).
        patients: Ids, (records,).
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]

    def select(self, kept: NDArray[np.bool_]) -> Pictures:
        """Return the records for which `kept` holds, (records,)."""
        return Pictures(self.images[kept], self.labels[kept], self.patients[kept])


def image_of(study: Study) -> Image:
    """Return what the study makes of images.

    Raises:
        StudyError: it expects a table.
    """
    if study.cohort.image is None:
        raise StudyError(
            "simulation.partition makes hospitals of images, and the study expects a table",
            remedy="give the study a cohort.image table, or another partition",
        )
    return study.cohort.image


def read_pictures(path: Path, image: Image, *, patients: bool | None) -> Pictures:
    """Read an archive's images, labels and patients.

    Args:
        path: An npz archive.
        image: What the study makes of each image.
        patients: Whether the archive names them. None: where it has the array. An image that has no
            patient's name is known by its content.

    Raises:
        DataError: the archive is not there or damaged, or lacks an array or has one of another
            shape.
    """
    names = ["images", "labels", *(["patient"] if patients else [])]
    optional = ["patient"] if patients is None else []
    arrays = read_named(path, names, optional)
    images = arrays["images"]
    with of_partition():
        check_images(path, images if images.ndim != 3 else images[..., None], image)
        labels = one_each(path, "labels", arrays["labels"], len(images))
        if "patient" in arrays:
            ids = one_each(path, "patient", arrays["patient"], len(images))
        else:
            ids = content_ids(one.tobytes() for one in images)
    return Pictures(images, _numbers(path, labels), np.array(ids))


def read_named(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """Return arrays of an npz archive by name; the optional ones where they are there.

    Raises:
        DataError: the archive is not there or damaged, or lacks one of `names`.
    """

    def pick(archive: Any) -> dict[str, Any]:
        absent = [name for name in names if name not in archive.files]
        if absent:
            raise DataError(
                f"cohort file {str(path)!r} has no array {absent[0]!r} "
                f"(it has {', '.join(archive.files)})",
                remedy=f"this partition needs the arrays {', '.join(names)}; one that deals whole "
                'patients deals records with simulation.partition.unit = "record"',
            )
        return {name: archive[name] for name in (*names, *optional) if name in archive.files}

    with of_partition():
        return read_archive(path, pick)


def _numbers(path: Path, texts: Sequence[str]) -> NDArray[np.int64]:
    try:
        return np.array([float(text) for text in texts]).astype(np.int64)
    except ValueError:
        raise DataError(
            f"partition file {str(path)!r}: a label is no number (labels are {texts[0]!r}, ...)",
            remedy="number the outcomes from 0; the study names them",
        ) from None


def check_as_declared(path: Path, images: NDArray[Any], image: Image) -> None:
    """Refuse images of another size, colour or depth than the study's, which no map would mend.

    Hospitals whose images are scaled differently differ by more than their patients.

    Raises:
        DataError: they are not `image.size` pixels a side, not of its channels, or above 255.
    """
    height, width = images.shape[1:3]
    channels = 1 if images.ndim == 3 else images.shape[3]
    found = (height, width, channels)
    wanted = (image.size, image.size, image.channels)
    if found != wanted:
        raise DataError(
            f"partition file {str(path)!r}: images of {height}x{width} pixels in {channels} "
            f"channel(s), and the study takes {image.size}x{image.size} in {image.channels}",
            remedy="name the archive of that size in simulation.partition, or set cohort.image",
        )
    if images.max(initial=0) > 255 or images.min(initial=0) < 0:
        raise DataError(
            f"partition file {str(path)!r}: pixels run from {images.min()} to {images.max()}, "
            "not from 0 to 255",
            remedy="scale the images to 8 bits first: cut off, most of a deeper image is lost",
        )


def first_copies(pictures: Pictures) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return which images to keep, (records,), so that none is there twice, and a note.

    Of images with the same pixels the first is kept; none where their labels differ, as nobody
    can say which is right. Else a copy could train and evaluate.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for record, one in enumerate(pictures.images):
        groups[fingerprint(one.tobytes())].append(record)
    kept = np.zeros(len(pictures.labels), dtype=np.bool_)
    for records in groups.values():
        kept[records[0]] = len(set(pictures.labels[records].tolist())) == 1
    gone = int((~kept).sum())
    return kept, (f"copies: {gone} exact ones left out",) if gone else ()


def write_arrays(path: Path, **arrays: NDArray[np.generic]) -> None:
    """Write an npz archive, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomic(path, buffer.getvalue())
