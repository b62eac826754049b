"""Hospitals made of the rows of one table, skewed in their case mix.

For a seed, the patients are dealt to the hospitals, each outcome by proportions from a Dirichlet
distribution (Hsu et al. 2019): the smaller alpha, the more their case mixes differ. A patient of
several rows stays whole and is dealt by the highest outcome; without a patient's column each row is
one. Case mix is simulated; patients, values and outcomes are real.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from common.cohort.labels import encode_labels
from common.cohort.table import read_csv
from common.errors import DataError, StudyError
from common.files import write_atomic
from common.partition_spec import DealtRows
from common.study import Study
from simulations.partitions.dealing import check_hospital, deal
from simulations.partitions.types import Hospital, of_partition, round_count


def dealt_rows(
    study: Study, partition: DealtRows, *, data: Path | None, folder: Path, seed: int
) -> list[Hospital]:
    """Write each hospital's CSV file, as the study reads it, and return the hospitals.

    Raises:
        StudyError: the study expects images.
        DataError: the table is not there or malformed, lacks the column of outcomes or of patients
            or has an outcome that the study does not know, or a hospital has too few patients or
            one outcome.
    """
    schema = study.cohort
    if schema.image is not None:
        raise StudyError(
            "simulation.partition deals rows of a table, and the study expects images",
            remedy="give the study cohort.features, or another partition",
        )
    path = ((data or Path()) / partition.path).resolve()
    table = _read(path, study)
    if partition.drop_copies:
        table = table.drop_duplicates(ignore_index=True)
    with of_partition():
        labels = encode_labels(table[schema.label.columns[-1]].tolist(), schema)
    ids = table.index if schema.patient is None else table[schema.patient]
    names, index = np.unique(ids.to_numpy(), return_inverse=True)
    outcome = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(outcome, index, labels)
    rng = np.random.default_rng([1989, seed])
    dealt = deal(outcome, hospitals=partition.hospitals, alpha=partition.alpha, rng=rng)
    folder.mkdir(parents=True, exist_ok=True)
    hospitals = []
    for number in range(partition.hospitals):
        mine = dealt == number
        check_hospital(outcome[mine], number + 1)
        file = folder / f"hospital-{number + 1}.csv"
        text = table[mine[index]].to_csv(index=False, header=not schema.columns)
        write_atomic(file, text)
        hospitals.append(Hospital(file.stem, file, round_count(int(mine.sum()))))
    return hospitals


def _read(path: Path, study: Study) -> pd.DataFrame:
    """Return the table as text, with the outcomes' column and the patients', if they have one."""
    with of_partition():
        is_arff = path.suffix.lower() == ".arff"
        table = _read_arff(path) if is_arff else read_csv(path, study.cohort.columns)
    for column in (*study.cohort.label.columns, study.cohort.patient):
        if column is not None and column not in table.columns:
            raise DataError(
                f"partition file {str(path)!r} has no column {column!r} "
                f"(it has {', '.join(map(str, table.columns[:12]))})",
                remedy="name it in the study's cohort.label.column or cohort.patient",
            )
    return table


def _read_arff(path: Path) -> pd.DataFrame:
    """Read Weka's format: attributes with their types, then comma-separated values."""
    from scipy.io import arff  # only an ARFF file waits for it

    try:
        values, _ = arff.loadarff(str(path))
    except FileNotFoundError:
        raise DataError(
            f"cohort file {str(path)!r} does not exist",
            remedy="check the path: a simulation's is below --data",
        ) from None
    except (arff.ArffError, ValueError, NotImplementedError, StopIteration, OSError) as error:
        raise DataError(
            f"cohort file {str(path)!r} cannot be read as ARFF: {error or 'it ends too early'}",
            remedy="give numeric and nominal attributes, or export the table as CSV",
        ) from None
    columns = {}
    for name in values.dtype.names or ():
        column = values[name]
        is_text = column.dtype.kind == "S"
        columns[name] = np.char.decode(column) if is_text else [_plain(v) for v in column]
    return pd.DataFrame(columns, dtype=str)


def _plain(value: float) -> str:
    """Return a number's shortest text; '' where it is missing."""
    return "" if np.isnan(value) else repr(float(value))
