"""From a table, CSV or Parquet, to tensors, by the study's declared constants alone.

No range, mean or frequency is measured: a statistic of the patients would be a release without a
price. Out-of-range values are clamped and missing ones take the declared default; how often that
happened is noted for the site's own eyes.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.cohort.parquet import is_parquet, read_parquet
from common.cohort.records import Records, fingerprint
from common.cohort.schema import CohortSchema, Feature
from common.cohort.split import PART, content_ids
from common.errors import DataError

Floats = NDArray[np.float64]


def read_table_records(path: Path, schema: CohortSchema) -> Records:
    """Read a table's records; without a patient column each row is a patient.

    Raises:
        DataError: see `read_table` and `encode_features`.
    """
    frame = read_table(path, schema)
    features, notes = encode_features(frame, schema)
    missing = [
        (f.name, int(_is_missing(frame[f.source], f, schema).sum())) for f in schema.features
    ]
    contents = ["\x1f".join(row).encode() for row in frame.to_numpy()]
    label = schema.label
    return Records(
        x=features.astype(np.float32),
        labels=frame[label.columns[-1]].tolist(),
        patients=frame[schema.patient].tolist() if schema.patient else content_ids(contents),
        contents=[fingerprint(content) for content in contents],
        incomplete=incomplete(frame, schema),
        notes=tuple(notes),
        missing=tuple((name, count) for name, count in missing if count),
        times=None if label.event is None else frame[label.column].tolist(),
        parts=frame[PART].tolist() if PART in frame.columns else None,
    )


def read_table(path: Path, schema: CohortSchema) -> pd.DataFrame:
    """Read a CSV or Parquet file as text, with at least the columns the schema needs.

    Args:
        path: Parquet where it ends so (`common.cohort.parquet`), and CSV under any other ending.
        schema: Its `columns` name those of a CSV file without a header; Parquet names its own.

    Raises:
        DataError: the file is missing, empty or malformed, or lacks a column.
    """
    frame = read_parquet(path) if is_parquet(path) else read_csv(path, schema.columns)
    if frame.empty:
        raise DataError(f"cohort file {str(path)!r} is empty", remedy="give a file with patients")
    needed = [f.source for f in schema.features] + list(schema.label.columns)
    needed += [schema.patient] if schema.patient else []
    needed += [schema.image.file] if schema.image else []
    absent = [c for c in needed if c not in frame.columns]
    if absent:
        raise DataError(
            f"cohort file {str(path)!r} has no column {absent[0]!r} "
            f"(it has {', '.join(map(str, frame.columns[:12]))})",
            remedy="export that column, or name it in the study "
            "(cohort.columns, feature.column, label.column, label.event, image.file)",
        )
    return frame


def read_csv(path: Path, columns: Sequence[str] = (), *, what: str = "cohort file") -> pd.DataFrame:
    """Read text as it stands; a line of another length is refused, as its values may be shifted.

    Args:
        path: Comma-separated values.
        columns: Their names, where the first line does not name them.
        what: Messages call the file.

    Raises:
        DataError: the file is missing or malformed.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
    except FileNotFoundError:
        raise DataError(
            f"{what} {str(path)!r} does not exist",
            remedy="check the path: a site's is in its cohort.toml, a simulation's below --data",
        ) from None
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(
            f"{what} {str(path)!r} cannot be read as CSV: {error}",
            remedy="export the table as comma-separated UTF-8 text",
        ) from None
    lines = [(number, line) for number, line in lines if any(line)]
    header = list(columns) if columns or not lines else lines.pop(0)[1]
    _check_columns(f"{what} {str(path)!r}", header, lines)
    return pd.DataFrame([line for _, line in lines], columns=header, dtype=str)


def _check_columns(file: str, header: list[str], lines: list[tuple[int, list[str]]]) -> None:
    twice = sorted({c for c in header if header.count(c) > 1})
    if twice:
        raise DataError(f"{file} has two columns {twice[0]!r}", remedy="rename one of them")
    for number, line in lines:
        if len(line) != len(header):
            raise DataError(
                f"{file}, line {number}: {len(line)} values for {len(header)} columns",
                remedy="mend that line (a comma within a value needs quotes around the value), or "
                "name every column in the study's cohort.columns",
            )


def encode_features(frame: pd.DataFrame, schema: CohortSchema) -> tuple[Floats, list[str]]:
    """Return the inputs, (records, features), and notes on what was clamped or missing."""
    blocks, notes = [], []
    for feature in schema.features:
        text = frame[feature.source]
        missing = _is_missing(text, feature, schema)
        block, remarks = _ENCODERS[feature.kind](text, missing, feature)
        blocks.append(block)
        if feature.indicator:
            blocks.append(missing[:, None].astype(np.float64))
        notes += remarks
        if missing.any():
            notes.append(f"{feature.name}: {int(missing.sum())} missing")
    return np.concatenate(blocks, axis=1), notes


def incomplete(frame: pd.DataFrame, schema: CohortSchema) -> NDArray[np.bool_]:
    """Return whether a declared feature is missing, (records,).

    A column that no feature reads does not count, and 0 is a value unless the study lists it.
    """
    missing = [_is_missing(frame[f.source], f, schema) for f in schema.features]
    return np.asarray(np.any(missing, axis=0), dtype=np.bool_)


def _is_missing(text: pd.Series[str], feature: Feature, schema: CohortSchema) -> NDArray[np.bool_]:
    return text.isin([*schema.missing, *feature.missing]).to_numpy(dtype=np.bool_)


def _number(
    text: pd.Series[str], missing: NDArray[np.bool_], feature: Feature
) -> tuple[Floats, list[str]]:
    assert feature.range is not None  # Feature holds it for numbers
    low, high = feature.range
    center = (low + high) / 2 if feature.center is None else feature.center
    scale = (high - low) / 2 if feature.scale is None else feature.scale
    default = center if feature.default is None else float(feature.default)
    values = pd.to_numeric(text.where(~missing, str(default)), errors="coerce").to_numpy(float)
    unreadable = np.flatnonzero(np.isnan(values))
    if unreadable.size:
        raise DataError(
            f"feature {feature.name!r}: {text.iloc[unreadable[0]]!r} in record "
            f"{unreadable[0] + 1} is not a number",
            remedy="mend the value, or list it under cohort.missing or the feature's missing",
        )
    clamped = int(((values < low) | (values > high))[~missing].sum())
    note = f"{feature.name}: {clamped} out of [{low:g}, {high:g}], clamped"
    scaled = (np.clip(values, low, high) - center) / scale
    return scaled[:, None], [note] if clamped else []


def _category(
    text: pd.Series[str], missing: NDArray[np.bool_], feature: Feature
) -> tuple[Floats, list[str]]:
    values = text.where(~missing, "" if feature.default is None else str(feature.default))
    columns = [_same_value(values, category) for category in feature.categories]
    return np.stack(columns, axis=1).astype(np.float64), []


def _missing(
    text: pd.Series[str], missing: NDArray[np.bool_], feature: Feature
) -> tuple[Floats, list[str]]:
    return missing[:, None].astype(np.float64), []


_ENCODERS = {"number": _number, "category": _category, "missing": _missing}


def _same_value(values: pd.Series[str], category: str) -> NDArray[np.bool_]:
    """Compare as text, and as numbers where both are: '3.0' in a file is the study's '3'."""
    same = (values == category).to_numpy()
    number = pd.to_numeric(pd.Series([category]), errors="coerce").iloc[0]
    if not np.isnan(number):
        same = same | (pd.to_numeric(values, errors="coerce") == number).to_numpy()
    return np.asarray(same, dtype=np.bool_)
