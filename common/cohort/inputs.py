"""New cases, without outcomes, through the encoders that the study's patients went through.

A file of new cases looks as a site's own file does, but that it need not tell the outcome; where it
does, the outcome is not looked at.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.cohort import images
from common.cohort.image_files import HEADER, is_image_file, read_image_file
from common.cohort.index import read_index
from common.cohort.parquet import is_parquet
from common.cohort.pixels import UnusableImage, encode_image
from common.cohort.records import Records
from common.cohort.schema import CohortSchema, Feature, Image
from common.cohort.table import encode_features, incomplete, read_table, read_table_records
from common.cohort.texts import read_texts
from common.errors import DataError


@dataclass(frozen=True)
class Inputs:
    """New cases, encoded.

    Attributes:
        x: Inputs, (records, *input_shape), float32.
        patients: Each record's patient as the file names it; None where the study names no column.
        incomplete: Whether a declared feature is missing, (records,).
        notes: What was missing, clamped, unknown or resized, with counts.
    """

    x: NDArray[np.float32]
    patients: list[str] | None
    incomplete: NDArray[np.bool_]
    notes: tuple[str, ...] = ()


def read_inputs(path: Path, schema: CohortSchema) -> Inputs:
    """Read new cases: a table, an archive, an index of image files, or one image file.

    Args:
        path: As a cohort's file (`common.cohort.read.CohortSource`); the outcome's column or array
            may be absent, also from a table without a header line. Or one PNG, JPEG or DICOM file.
        schema: The study's.

    Raises:
        DataError: the file is missing or malformed, or does not fit the schema.
    """
    if not path.is_file():
        raise DataError(
            f"input file {str(path)!r} does not exist or is no file",
            remedy="check the path of the new cases",
        )
    is_archive, is_image = path.suffix == ".npz", _is_image(path)
    if schema.features and (is_archive or is_image):
        held = "holds images" if is_archive else "is an image"
        raise DataError(
            f"input file {str(path)!r} {held}, and the study expects a table",
            remedy="give a CSV or Parquet file with the study's columns",
        )
    try:
        if schema.text is not None:
            return _of_records(read_texts(path, schema, with_labels=False), schema)
        if schema.image is None:
            return _table(path, schema)
        if is_image:
            return _one_image(path, schema.image)
        return _archive(path, schema) if is_archive else _index(path, schema)
    except DataError as error:
        told = error.message.replace("cohort file", "input file", 1)
        raise DataError(told, remedy=error.remedy) from error


def read_patients(path: Path, schema: CohortSchema) -> list[str]:
    """Return the patient of each record of a site's own file, in the file's order.

    Where the study names the patient's column no image is decoded.

    Raises:
        DataError: the file is missing or malformed, or lacks the column.
    """
    if schema.text is not None:
        return read_texts(path, schema).patients
    if schema.image is None:
        return read_table_records(path, schema).patients
    is_archive = path.suffix == ".npz"
    if schema.patient is None:
        return (images.read_images if is_archive else read_index)(path, schema).patients
    if not is_archive:
        return [str(patient) for patient in read_table(path, schema)[schema.patient]]
    arrays = images.load(path, schema)
    return images.one_each(path, schema.patient, arrays["patients"], len(arrays["images"]))


def _table(path: Path, schema: CohortSchema) -> Inputs:
    plain = _labelled_by(_without_outcome(path, schema), schema.features[0].source)
    frame = read_table(path, plain)
    features, notes = encode_features(frame, schema)
    for feature in schema.features:
        if feature.kind == "category":
            notes += _unknown(frame[feature.source], feature, schema)
    patients = frame[schema.patient].tolist() if schema.patient else None
    return Inputs(features.astype(np.float32), patients, incomplete(frame, schema), tuple(notes))


def _unknown(text: pd.Series[str], feature: Feature, schema: CohortSchema) -> list[str]:
    """Count the values that are no listed category: the reference level, or a mistake."""
    given = text[~text.isin([*schema.missing, *feature.missing])]
    alone = schema.model_copy(update={"features": (feature.model_copy(update=_BARE),)})
    encoded, _ = encode_features(given.to_frame(feature.source), alone)
    count = int((encoded.sum(axis=1) == 0).sum())
    note = f"{feature.name}: {count} of no listed category, taken as the reference"
    return [note] if count else []


_BARE = {"indicator": False}


def _index(path: Path, schema: CohortSchema) -> Inputs:
    assert schema.image is not None  # the caller reads an index for images only
    return _of_records(read_index(path, _labelled_by(schema, schema.image.file)), schema)


_ENDINGS = (".png", ".jpg", ".jpeg", ".dcm")


def _is_image(path: Path) -> bool:
    """Tell by the first bytes; what is only named so is told that it is none."""
    if path.suffix.lower() in _ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            return is_image_file(file.read(HEADER))
    except OSError:
        return False  # the reader itself says what is wrong


def _one_image(path: Path, image: Image) -> Inputs:
    try:
        x = encode_image(read_image_file(path.read_bytes(), image), image)
    except UnusableImage as error:
        told = f"input file {str(path)!r} {error.reason}"
        raise DataError(told, remedy=error.remedy) from None
    return Inputs(x[None], None, np.zeros(1, dtype=np.bool_))


def _archive(path: Path, schema: CohortSchema) -> Inputs:
    image = schema.image
    assert image is not None  # the caller reads an archive for images only
    arrays = images.load(path, _labelled_by(schema, "images"))
    pixels = arrays["images"] if arrays["images"].ndim != 3 else arrays["images"][..., None]
    images.check_images(path, pixels, image)
    x = np.empty((len(pixels), *schema.input_shape), dtype=np.float32)
    for record, one in enumerate(pixels):
        x[record] = encode_image(np.clip(one.astype(np.float32), 0, 255), image)
    patients = None
    if schema.patient is not None:
        patients = images.one_each(path, schema.patient, arrays["patients"], len(pixels))
    whole = np.zeros(len(pixels), dtype=np.bool_)
    return Inputs(x, patients, whole, images.notes(pixels, image))


def _of_records(records: Records, schema: CohortSchema) -> Inputs:
    patients = records.patients if schema.patient else None
    return Inputs(records.x, patients, records.incomplete, records.notes)


def _labelled_by(schema: CohortSchema, column: str) -> CohortSchema:
    """Return the schema with a column that is there in the outcome's place; it is not read."""
    label = schema.label.model_copy(update={"column": column, "event": None})
    return schema.model_copy(update={"label": label})


def _without_outcome(path: Path, schema: CohortSchema) -> CohortSchema:
    """Return the schema of a file without a header line that leaves the outcome's column out."""
    if not schema.columns or is_parquet(path):
        return schema
    rest = tuple(column for column in schema.columns if column not in schema.label.columns)
    if _first_width(path) != len(rest):
        return schema
    return schema.model_copy(update={"columns": rest})


def _first_width(path: Path) -> int:
    """Return how many cells the first line has that has any; 0 where it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next((len(line) for line in csv.reader(file) if any(line)), 0)
    except (csv.Error, UnicodeDecodeError, OSError):
        return 0  # the reader itself says what is wrong
