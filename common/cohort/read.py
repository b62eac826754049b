"""Reading a site's patients: from a file, through the study's schema, into parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common.cohort.images import read_images
from common.cohort.parts import Cohort, Part
from common.cohort.split import SplitKind, content_ids, keyed_split, stratified_split
from common.cohort.table import encode_features, encode_labels, read_table
from common.errors import DataError
from common.study import CohortSchema


@dataclass(frozen=True)
class CohortSource:
    """Where a site's patients are and how they are parted, for the site's whole life.

    Attributes:
        name: The site's name.
        path: A .npz archive, or a table of comma-separated values under any other ending.
        declared: Public, rounded count of all patients.
        split_key: Secret key of the split.
        split: 'keyed', or 'stratified' for research.
    """

    name: str
    path: Path
    declared: int
    split_key: bytes
    split: SplitKind = "keyed"


def read_cohort(source: CohortSource, schema: CohortSchema) -> Cohort:
    """Read a site's patients and part them.

    Raises:
        DataError: the file does not fit the schema, or a part would be empty.
    """
    x, y, patients, notes = _read_records(source.path, schema)
    names, index = np.unique(np.array(patients), return_inverse=True)
    train = _trains(source, schema, list(names), index, y)
    parts = [_part(x, y, index, keep) for keep in (train[index], ~train[index])]
    for part, what in zip(parts, ("train", "holdout"), strict=True):
        if part.patients == 0:
            raise DataError(
                f"site {source.name!r}: no patient falls into the {what} part "
                f"of {len(names)} patients at train fraction {schema.train_fraction:g}",
                remedy="give more patients",
            )
    return Cohort(source.name, source.declared, parts[0], parts[1], tuple(notes))


def _read_records(
    path: Path, schema: CohortSchema
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[str], list[str]]:
    """Return inputs, classes, each record's patient id, and notes."""
    if path.suffix == ".npz":
        if schema.image is None:
            raise DataError(
                f"cohort file {str(path)!r} holds images, and the study expects a table",
                remedy="give a CSV file, or a study with a cohort.image table",
            )
        x, labels, patients, notes = read_images(path, schema)
    else:
        if schema.image is not None:
            raise DataError(
                f"cohort file {str(path)!r} is not an npz archive, and the study expects images",
                remedy="give an .npz file with images and labels",
            )
        frame = read_table(path, schema)
        features, notes = encode_features(frame, schema)
        x = features.astype(np.float32)
        labels = frame[schema.label.column].tolist()
        if schema.patient:
            patients = frame[schema.patient].tolist()
        else:
            patients = content_ids("\x1f".join(row).encode() for row in frame.to_numpy())
    y = encode_labels(labels, schema)
    for record, patient in enumerate(patients, start=1):
        if patient in schema.missing:  # or all such records would count as one patient
            raise DataError(
                f"cohort file {str(path)!r}: record {record} has no patient id in column "
                f"{schema.patient!r} (it says {patient!r})",
                remedy="give every record its patient's id",
            )
    return x, y, patients, notes


def _trains(
    source: CohortSource,
    schema: CohortSchema,
    names: list[str],
    index: NDArray[np.intp],
    y: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Return whether each patient trains, (patients,)."""
    if source.split == "keyed":
        return keyed_split(names, key=source.split_key, train_fraction=schema.train_fraction)
    outcomes = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(outcomes, index, y)  # a patient of several records: the highest class
    return stratified_split(
        names, outcomes.tolist(), key=source.split_key, train_fraction=schema.train_fraction
    )


def _part(
    x: NDArray[np.float32], y: NDArray[np.int64], index: NDArray[np.intp], keep: NDArray[np.bool_]
) -> Part:
    kept, patient = np.unique(index[keep], return_inverse=True)
    return Part(
        torch.from_numpy(x[keep]),
        torch.from_numpy(y[keep]),
        torch.from_numpy(patient.astype(np.int64)),
        len(kept),
    )
