"""From a Parquet file to the text that a CSV file of the same table would hold.

A study reads text, so both kinds of file take the same path from here on and give the same inputs,
the same ids and the same split. A null or NaN is an empty cell; numbers are written as shortly as
they can be read back ('5', '63.0', '1e-05'), truth as True or False, times as ISO 8601.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.errors import DataError


def is_parquet(path: Path) -> bool:
    """Tell whether a file is a Parquet file by its ending, .parquet or .pq."""
    return path.suffix.lower() in {".parquet", ".pq"}


def read_parquet(path: Path) -> pd.DataFrame:
    """Read every column as text; rows without any value are left out, as in a CSV file.

    Raises:
        DataError: the file is missing or malformed, or has two columns of one name.
    """
    import pyarrow as pa  # only sites with Parquet files wait for it
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            table = pq.ParquetFile(file, memory_map=False).read()
            table.validate(full=True)
    except FileNotFoundError:
        raise DataError(
            f"cohort file {str(path)!r} does not exist",
            remedy="check the path: a site's is in its cohort.toml, a simulation's below --data",
        ) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"cohort file {str(path)!r} cannot be read as Parquet: {error}",
            remedy="export the table again; decrypt it first if it is encrypted",
        ) from None
    names = [name.strip() for name in table.column_names]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(
            f"cohort file {str(path)!r} has two columns {twice[0]!r}", remedy="rename one of them"
        )
    cells = {name: _texts(c) for name, c in zip(names, table.columns, strict=True)}
    frame = pd.DataFrame(cells, columns=names, dtype=str)
    return frame[(frame != "").any(axis=1)].reset_index(drop=True)


def _texts(column: Any) -> list[str]:
    """Return a column's cells as a CSV file would show them."""
    narrow = {"halffloat": np.float16, "float": np.float32}.get(str(column.type))
    values = column.to_pylist()
    if narrow is not None:  # 0.1 in 32 bits is written 0.1, and not as the double nearest to it
        values = [None if v is None else narrow(v) for v in values]
    return [_text(value) for value in values]


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN alone differs from itself
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace").strip()
    return str(value).strip()
