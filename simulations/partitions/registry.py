"""The hospitals of a registry whose patients' ids name the centre that sent them.

A second table says which hospital, or which region taken as one, each centre belongs to; a third,
where there is one, which patients train and which are for testing, as others published it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from common.cohort.split import PART
from common.cohort.table import read_csv
from common.errors import DataError
from common.partition_spec import Registry
from common.study import Study
from simulations.partitions.by_column import write_hospitals
from simulations.partitions.types import Hospital, of_partition

_HOSPITAL = "hospital"


def registry(
    study: Study, partition: Registry, *, data: Path | None, folder: Path, seed: int
) -> list[Hospital]:
    """Write each hospital's rows to a file of its own; nothing is drawn, so `seed` is not needed.

    Where the registry has a split, its patients outside it are left out, and each file has the
    column 'part', which the split 'given' reads and the others do not look at.

    Raises:
        DataError: a table or a column is not there, an id names no centre, a centre is not in the
            table of centres, or a hospital has no row.
    """
    root, patient = data or Path(), partition.patient
    path = (root / partition.path).resolve()
    table = _read(path, patient)
    centres = _lookup(root / partition.centres, partition.centre, partition.column)
    table[_HOSPITAL] = [_hospital(one, partition, centres) for one in table[patient]]
    notes = {}
    if partition.parts is not None and partition.part is not None:
        parts = _lookup(root / partition.parts, patient, partition.part)
        table[PART] = table[patient].map(parts)
        outside = table[_HOSPITAL][table[PART].isna()].value_counts()
        notes = {
            str(h): f"split: {n} patients in neither part left out" for h, n in outside.items()
        }
        table = table[table[PART].notna()]
    return write_hospitals(
        table, _HOSPITAL, partition.hospitals, origin=path, folder=folder, notes=notes
    )


def _read(path: Path, *columns: str) -> pd.DataFrame:
    with of_partition():
        table = read_csv(path)
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise DataError(
            f"partition file {str(path)!r} has no column {absent[0]!r} "
            f"(it has {', '.join(map(str, table.columns[:12]))})",
            remedy="mend the columns' names in simulation.partition",
        )
    return table


def _lookup(path: Path, key: str, value: str) -> dict[str, str]:
    table = _read(path.resolve(), key, value)
    return dict(zip(table[key], table[value], strict=True))


def _hospital(patient: str, partition: Registry, centres: dict[str, str]) -> str:
    pieces = patient.split(partition.separator)
    code = pieces[partition.place - 1] if len(pieces) >= partition.place else None
    if code is None or code not in centres:
        found = "no centre" if code is None else f"centre {code!r}, which is in no row"
        raise DataError(
            f"patient {patient!r} names {found} of {str(partition.centres)!r}",
            remedy="mend simulation.partition (separator, place, centres) or the table of centres",
        )
    return centres[code]
