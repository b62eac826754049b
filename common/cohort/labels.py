"""From a column of outcomes, as text, to classes; from times and how they ended to their codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.cohort.records import Records
from common.cohort.schema import CohortSchema
from common.errors import DataError
from common.survival import encode

_LONGEST = 10**9  # a time: twice this is far from the largest number


def encode_outcomes(records: Records, schema: CohortSchema) -> NDArray[np.int64]:
    """Return each record's class or, of survival, its code (`common.survival`), (records,).

    Raises:
        DataError: a label the study does not know, or a time that is none.
    """
    classes = encode_labels(records.labels, schema)
    if records.times is None:
        return classes
    times = [_time(text, number, schema) for number, text in enumerate(records.times, start=1)]
    return encode(np.array(times, dtype=np.int64), classes)


def _time(text: str, record: int, schema: CohortSchema) -> int:
    """Return a time in whole units, what is begun left out."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _LONGEST:
        raise DataError(
            f"time {text!r} in column {schema.label.column!r} (record {record}) is no number from "
            f"0 to {_LONGEST:g}",
            remedy="mend the record, or leave it out: without a time nothing is known of it",
        )
    return int(value)


def encode_labels(values: Sequence[str], schema: CohortSchema) -> NDArray[np.int64]:
    """Return each record's class, (records,).

    Raises:
        DataError: a label the study does not know.
    """
    label = schema.label
    own = label.classes if label.event is None else ("0", "1")
    mapping = label.map or dict(zip(own, label.classes, strict=True))
    index = {c: i for i, c in enumerate(label.classes)}
    lookup = {text: index[name] for text, name in mapping.items()}
    codes = [lookup.get(v, lookup.get(_plain(v), -1)) for v in values]
    if -1 in codes:
        unknown = values[codes.index(-1)]
        raise DataError(
            f"label {unknown!r} in column {label.columns[-1]!r} (record {codes.index(-1) + 1}) "
            f"is not one the study knows ({', '.join(sorted(lookup))})",
            remedy="add it to cohort.label.map, or mend the record",
        )
    return np.asarray(codes, dtype=np.int64)


def _plain(text: str) -> str:
    """Return '3' for '3.0': a table of numbers often writes whole ones so."""
    return text[:-2] if text.endswith(".0") else text
