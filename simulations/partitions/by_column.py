"""The hospitals that one table names in a column: a trial's centres, a registry's units."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from common.cohort.table import read_csv
from common.errors import DataError
from common.files import write_atomic
from common.partition_spec import ByColumn, ColumnSite
from common.study import Study
from simulations.partitions.types import Hospital, of_partition


def by_column(
    study: Study, partition: ByColumn, *, data: Path | None, folder: Path, seed: int
) -> list[Hospital]:
    """Write each hospital's rows to a file of its own; nothing is drawn, so `seed` is not needed.

    Raises:
        DataError: the table or its column is not there, a line has a cell more or less, or a
            hospital has no row.
    """
    path = ((data or Path()) / partition.path).resolve()
    with of_partition():
        table = read_csv(path)
    if partition.column not in table.columns:
        raise DataError(
            f"partition file {str(path)!r} has no column {partition.column!r}",
            remedy="name the hospitals' column in simulation.partition.column",
        )
    return write_hospitals(table, partition.column, partition.hospitals, origin=path, folder=folder)


def write_hospitals(
    table: pd.DataFrame,
    column: str,
    sites: Mapping[str, ColumnSite],
    *,
    origin: Path,
    folder: Path,
    notes: Mapping[str, str] | None = None,
) -> list[Hospital]:
    """Write the rows of each hospital that a column names to a file of its own.

    Args:
        table: All rows, as text.
        column: Names the hospital of each.
        sites: The hospitals; rows of other values are left out.
        origin: Where the rows are from, for messages.
        folder: Where to write.
        notes: The column's value -> what had to be changed in that hospital's patients.

    Raises:
        DataError: a hospital has no row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hospitals = []
    for name, site in sorted(sites.items()):
        rows = table[table[column] == site.value]
        if rows.empty:
            raise DataError(
                f"hospital {name!r}: no row of {str(origin)!r} has {site.value!r} "
                f"in column {column!r}",
                remedy="mend simulation.partition.hospitals",
            )
        file = folder / f"{name}.csv"
        write_atomic(file, rows.to_csv(index=False))
        note = (notes or {}).get(site.value)
        hospitals.append(Hospital(name, file, site.declared, (note,) if note else ()))
    return hospitals
