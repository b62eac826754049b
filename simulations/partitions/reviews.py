"""Hospitals that are systematic reviews, and the abstracts that they screened.

The reviews are those of Cohen et al. (2006, JAMIA 13). Each abstract is how often it has each word
of a hashed vocabulary; its label is 1 where the review included it. What is relevant is another
question in each review.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from common.errors import DataError, StudyError
from common.partition_spec import Reviews
from common.study import Study
from simulations.partitions.archive import read_named, write_arrays
from simulations.partitions.types import Hospital

_ARRAYS = ("data", "indices", "indptr", "shape", "label", "review")


def reviews(
    study: Study, partition: Reviews, *, data: Path | None, folder: Path, seed: int
) -> list[Hospital]:
    """Write each review's archive: counts as a CSR matrix, and label.

    Nothing is drawn, so `seed` is not needed.

    Raises:
        StudyError: the study expects no texts.
        DataError: the archive is not there or damaged, lacks an array or a review, or a review has
            abstracts of one label only.
    """
    if study.cohort.text is None:
        raise StudyError(
            "simulation.partition makes hospitals of texts, and the study expects none",
            remedy="give the study a cohort.text table, or another partition",
        )
    path = ((data or Path()) / partition.path).resolve()
    arrays = read_named(path, _ARRAYS)
    counts = _counts(path, arrays)
    labels, names = arrays["label"], np.char.lower(arrays["review"].astype(np.str_))
    folder.mkdir(parents=True, exist_ok=True)
    hospitals = []
    for name, declared in sorted(partition.hospitals.items()):
        mine = np.flatnonzero(names == name)
        if len(np.unique(labels[mine])) < 2:
            what = "abstracts of one label only" if len(mine) else "no abstract"
            raise DataError(
                f"hospital {name!r}: {str(path)!r} has {what} of that review (it has "
                f"{', '.join(np.unique(names))})",
                remedy="mend simulation.partition.hospitals",
            )
        file, own = folder / f"{name}.npz", counts[mine]
        shape = np.array(own.shape)
        matrix = {"data": own.data, "indices": own.indices, "indptr": own.indptr, "shape": shape}
        write_arrays(file, **matrix, label=labels[mine])
        hospitals.append(Hospital(name, file, declared))
    return hospitals


def _counts(path: Path, arrays: dict[str, NDArray[Any]]) -> csr_array:
    """Return the counts of each abstract's words, divided by their length, (abstracts, words).

    Raises:
        DataError: the arrays are no such matrix, or not one entry an abstract.
    """
    data, indices, indptr = (arrays[name] for name in ("data", "indices", "indptr"))
    try:
        matrix = csr_array(
            (data.astype(np.float32), indices.astype(np.int32), indptr), tuple(arrays["shape"])
        )
        matrix.check_format(full_check=True)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"partition file {str(path)!r} holds no whole CSR matrix: {error}",
            remedy="get it again, or make it as `grandrounds data fetch screening` says",
        ) from None
    records = matrix.shape[0]
    for name in ("label", "review"):
        if arrays[name].shape != (records,):
            raise DataError(
                f"partition file {str(path)!r}: array {name!r} is {arrays[name].shape} for "
                f"{records} abstracts",
                remedy="give one value for each abstract",
            )
    return matrix
