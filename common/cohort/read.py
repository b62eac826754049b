"""Reading a site's patients: from a file, through the study's schema, into parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common.cohort.duplicates import Groups, describe, duplicates, units
from common.cohort.images import read_images
from common.cohort.index import read_index
from common.cohort.labels import encode_outcomes
from common.cohort.parts import Cohort, Part
from common.cohort.records import Records
from common.cohort.schema import CohortSchema
from common.cohort.split import (
    PART,
    SplitKind,
    given_split,
    keyed_split,
    stratified_split,
    task_draws,
)
from common.cohort.table import read_table_records
from common.cohort.texts import read_texts
from common.errors import DataError
from common.survival import decode


@dataclass(frozen=True)
class CohortSource:
    """Where a site's patients are and how they are parted, for the site's whole life.

    Attributes:
        name: The site's name.
        path: An archive of images or of counted words (.npz), a Parquet table (.parquet, .pq), or
            comma-separated values under any other ending: the patients themselves, or an index of
            image files where the study expects images.
        declared: Public, rounded count of all patients.
        split_key: Secret key of the split.
        split: 'keyed', or, for research, 'stratified' or 'given' (by the file's column 'part').
        classes: The hospital's own classes, for studies that leave them to it.
    """

    name: str
    path: Path
    declared: int
    split_key: bytes
    split: SplitKind = "keyed"
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named:
    """Who the records of a part are, for the hospital's own eyes.

    Attributes:
        numbers: Each record's number in the site's file, from 1, (records,).
        patients: Each record's patient, by the id that the split goes by.
    """

    numbers: list[int]
    patients: list[str]


def read_cohort(
    source: CohortSource, schema: CohortSchema, *, without: Callable[[str], bool] | None = None
) -> Cohort:
    """Read a site's patients and part them; see `read_named`, which also says who they are."""
    return read_named(source, schema, without=without)[0]


def read_named(
    source: CohortSource, schema: CohortSchema, *, without: Callable[[str], bool] | None = None
) -> tuple[Cohort, tuple[Named, Named]]:
    """Read a site's patients, part them, and say who is in train and in holdout.

    Args:
        source: Where they are.
        schema: What the study expects of them.
        without: Tells whether the patient of that id has withdrawn and is in no part. The others
            stay where they were, and the declared size stays what it was.

    Raises:
        DataError: the file does not fit the schema, or a part would be empty.
    """
    try:
        schema = schema.model_copy(update={"label": schema.label.of_hospital(source.classes)})
        records, y = _read_records(source.path, schema)
        if without is not None:
            records, y = _leave_out(records, y, without)
    except DataError as error:
        named = f"site {source.name!r}: {error.message}"
        raise DataError(named, remedy=error.remedy) from error
    names, index = np.unique(np.array(records.patients), return_inverse=True)
    copies = duplicates(records.contents)
    trains = _trains(source, schema, records, list(names), index, y, copies)
    keep = trains[index]
    draws = task_draws(list(names), key=source.split_key)
    parts = [_part(records.x, y, index, mask, draws) for mask in (keep, ~keep)]
    for part, what in zip(parts, ("train", "holdout"), strict=True):
        if part.patients == 0 and not (what == "holdout" and schema.train_fraction == 1):
            raise DataError(
                f"site {source.name!r}: no patient falls into the {what} part "
                f"of {len(names)} patients at train fraction {schema.train_fraction:g}",
                remedy="give more patients",
            )
    notes = (*records.notes, *describe(copies, keep))
    eligible = len(records.labels) + records.left_out
    cohort = Cohort(
        source.name,
        source.declared,
        parts[0],
        parts[1],
        notes,
        eligible,
        records.missing,
        len(source.classes) or len(schema.label.classes),
    )
    return cohort, (_named(records, keep), _named(records, ~keep))


def _named(records: Records, kept: NDArray[np.bool_]) -> Named:
    return Named(records.places[kept].tolist(), list(compress(records.patients, kept)))


def _read_records(path: Path, schema: CohortSchema) -> tuple[Records, NDArray[np.int64]]:
    """Return the records that count, and their classes."""
    is_archive = path.suffix == ".npz"
    if is_archive and schema.features:
        raise DataError(
            f"cohort file {str(path)!r} holds images, and the study expects a table",
            remedy="give a CSV or Parquet file, or a study with a cohort.image table",
        )
    if schema.text is not None:
        records = read_texts(path, schema)
    elif schema.image is None:
        records = read_table_records(path, schema)
    else:
        records = read_images(path, schema) if is_archive else read_index(path, schema)
    y = encode_outcomes(records, schema)
    for record, patient in enumerate(records.patients, start=1):
        # Or all such records would count as one patient.
        if patient in schema.missing or not patient.strip():
            raise DataError(
                f"cohort file {str(path)!r}: record {record} has no patient id in column "
                f"{schema.patient!r} (it says {patient!r})",
                remedy="give every record its patient's id",
            )
    return _complete(records, y, path) if schema.complete_cases else (records, y)


def _complete(
    records: Records, y: NDArray[np.int64], path: Path
) -> tuple[Records, NDArray[np.int64]]:
    """Leave out the records with a missing feature."""
    kept = ~records.incomplete
    if not kept.any():
        raise DataError(
            f"cohort file {str(path)!r}: each of {len(kept)} records misses a feature, "
            "and the study takes complete cases only",
            remedy="export the missing values, or ask for a study without that feature",
        )
    note = f"complete cases: {int((~kept).sum())} of {len(kept)} records left out"
    return records.select(kept, note=note), y[kept]


def _leave_out(
    records: Records, y: NDArray[np.int64], without: Callable[[str], bool]
) -> tuple[Records, NDArray[np.int64]]:
    """Leave out every record of the patients who have withdrawn."""
    gone = {patient for patient in set(records.patients) if without(patient)}
    if not gone:
        return records, y
    kept = np.array([patient not in gone for patient in records.patients], dtype=np.bool_)
    note = f"withdrawn: {len(gone)} patients with {int((~kept).sum())} records left out"
    return records.select(kept, note=note), y[kept]


def _trains(
    source: CohortSource,
    schema: CohortSchema,
    records: Records,
    names: list[str],
    index: NDArray[np.intp],
    y: NDArray[np.int64],
    copies: Groups,
) -> NDArray[np.bool_]:
    """Return whether each patient trains, (patients,): all do where nobody is to evaluate."""
    if schema.train_fraction == 1:
        return np.ones(len(names), dtype=np.bool_)
    if source.split == "keyed":
        return keyed_split(names, key=source.split_key, train_fraction=schema.train_fraction)
    if source.split == "given":
        return _as_given(source, records, names, index)
    unit = units(index, copies, patients=len(names))
    # A unit is known by the first of its patients, and has the highest class of all its records.
    heads = [names[first] for first in np.unique(unit, return_index=True)[1]]
    outcomes = np.zeros(len(heads), dtype=np.int64)
    classes = y if schema.label.event is None else decode(y)[1].astype(np.int64)
    np.maximum.at(outcomes, unit[index], classes)
    return stratified_split(
        heads, outcomes.tolist(), key=source.split_key, train_fraction=schema.train_fraction
    )[unit]


def _as_given(
    source: CohortSource, records: Records, names: list[str], index: NDArray[np.intp]
) -> NDArray[np.bool_]:
    if records.parts is None:
        raise DataError(
            f"site {source.name!r}: split is 'given', and {str(source.path)!r} has no column "
            f"{PART!r}",
            remedy=f"add the column {PART!r} (train or test), or split by 'keyed'",
        )
    try:
        return given_split(names, index.tolist(), records.parts)
    except DataError as error:
        raise DataError(f"site {source.name!r}: {error.message}", remedy=error.remedy) from error


def _part(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    index: NDArray[np.intp],
    keep: NDArray[np.bool_],
    draws: NDArray[np.float64],
) -> Part:
    kept, patient = np.unique(index[keep], return_inverse=True)
    return Part(
        torch.from_numpy(x[keep]),
        torch.from_numpy(y[keep]),
        torch.from_numpy(patient.astype(np.int64)),
        len(kept),
        torch.from_numpy(draws[kept]),
    )
