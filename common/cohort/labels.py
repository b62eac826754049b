"""From a column of outcomes, as text, to classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.cohort.schema import CohortSchema
from common.errors import DataError


def encode_labels(values: Sequence[str], schema: CohortSchema) -> NDArray[np.int64]:
    """Return each record's class, (records,).

    Raises:
        DataError: a label the study does not know.
    """
    label = schema.label
    mapping = label.map or {c: c for c in label.classes}
    index = {c: i for i, c in enumerate(label.classes)}
    lookup = {text: index[name] for text, name in mapping.items()}
    codes = [lookup.get(v, lookup.get(_plain(v), -1)) for v in values]
    if -1 in codes:
        unknown = values[codes.index(-1)]
        raise DataError(
            f"label {unknown!r} in column {label.column!r} (record {codes.index(-1) + 1}) "
            f"is not one the study knows ({', '.join(sorted(lookup))})",
            remedy="add it to cohort.label.map, or mend the record",
        )
    return np.asarray(codes, dtype=np.int64)


def _plain(text: str) -> str:
    """Return '3' for '3.0': a table of numbers often writes whole ones so."""
    return text[:-2] if text.endswith(".0") else text
