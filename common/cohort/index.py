"""From an index of image files to inputs: a table that names a file for each record.

Files may differ in size, in depth and between grey and colour: each is brought to the study's size
and channels on its own, from the range that its own format declares.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from common.cohort.image_files import read_image_file
from common.cohort.pixels import Floats, UnusableImage, encode_image
from common.cohort.records import Records, fingerprint
from common.cohort.schema import CohortSchema, Image
from common.cohort.split import content_ids
from common.cohort.table import read_table
from common.errors import DataError


def read_index(path: Path, schema: CohortSchema) -> Records:
    """Read the images that an index names; without a patient column each record is a patient.

    Args:
        path: A CSV or Parquet table with the columns image.file and label.column, and the patient's
            where the study names one. A file's name is absolute, or relative to the index's folder.
        schema: Says the columns, and what each image becomes.

    Raises:
        DataError: the index does not fit, or a file is missing or unusable; the message names the
            record and the file. All names are checked before the first image is read.
    """
    image = schema.image
    assert image is not None  # the caller reads an index for images only
    frame = read_table(path, schema)
    files = _files(path, frame[image.file])
    labels = frame[schema.label.column].tolist()
    x = np.empty((len(files), *schema.input_shape), dtype=np.float32)
    contents, identities = [], []
    for record, (file, label) in enumerate(zip(files, labels, strict=True)):
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise _unusable(path, record, file, str(error), "check the file") from None
        x[record] = _encode(raw, image, path, record, file)
        contents.append(fingerprint(raw))
        identities.append(contents[-1] + label.encode())
    patients = frame[schema.patient].tolist() if schema.patient else content_ids(identities)
    return Records(x, labels, patients, contents, np.zeros(len(files), dtype=np.bool_))


def _files(path: Path, names: pd.Series[str]) -> list[Path]:
    """Return each record's file, all of them there."""
    files = []
    for record, name in enumerate(names):
        file = path.parent / name
        if not name:
            raise _unusable(path, record, None, "names no file", "name a file in every record")
        if ".." in Path(name).parts:
            remedy = "name files within the index's folder, or by their absolute path"
            raise _unusable(path, record, Path(name), "leads out of its folder by '..'", remedy)
        if file.is_dir():
            raise _unusable(path, record, file, "is a folder", "name the image file itself")
        if not file.is_file():
            remedy = "mend the name, or put the file there"
            raise _unusable(path, record, file, "does not exist", remedy)
        files.append(file)
    return files


def _encode(raw: bytes, image: Image, path: Path, record: int, file: Path) -> Floats:
    try:
        return encode_image(read_image_file(raw, image), image)
    except UnusableImage as error:
        raise _unusable(path, record, file, error.reason, error.remedy) from None


def _unusable(path: Path, record: int, file: Path | None, reason: str, remedy: str) -> DataError:
    named = "" if file is None else f"image {str(file)!r} "
    return DataError(f"index {str(path)!r}, record {record + 1}: {named}{reason}", remedy=remedy)
