"""The hospitals that one table names in a column: a trial's centres, a registry's units."""

from __future__ import annotations

from pathlib import Path

from common.cohort.table import read_csv
from common.errors import DataError
from common.files import write_atomic
from common.partition_spec import ByColumn
from common.study import Study
from simulations.partitions.types import Hospital


def by_column(
    study: Study, partition: ByColumn, *, data: Path | None, folder: Path, seed: int
) -> list[Hospital]:
    """Write each hospital's rows to a file of its own; nothing is drawn, so `seed` is not needed.

    Raises:
        DataError: the table or its column is not there, a line has a cell more or less, or a
            hospital has no row.
    """
    path = ((data or Path()) / partition.path).resolve()
    try:
        table = read_csv(path)
    except DataError as error:
        told = error.message.replace("cohort file", "partition file", 1)
        raise DataError(told, remedy=error.remedy) from error
    if partition.column not in table.columns:
        raise DataError(
            f"partition file {str(path)!r} has no column {partition.column!r}",
            remedy="name the hospitals' column in simulation.partition.column",
        )
    folder.mkdir(parents=True, exist_ok=True)
    hospitals = []
    for name, site in sorted(partition.hospitals.items()):
        rows = table[table[partition.column] == site.value]
        if rows.empty:
            raise DataError(
                f"hospital {name!r}: no row of {str(path)!r} has {site.value!r} "
                f"in column {partition.column!r}",
                remedy="mend simulation.partition.hospitals",
            )
        file = folder / f"{name}.csv"
        write_atomic(file, rows.to_csv(index=False))
        hospitals.append(Hospital(name, file, site.declared))
    return hospitals
