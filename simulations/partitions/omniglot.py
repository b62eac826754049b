"""Omniglot (Lake et al. 2015, Science 350): each hospital has characters of its own as classes.

A hospital is an alphabet, or several together; twenty people drew each character. With rotations a
character turned by a right angle is a further class, as is usual since Santoro et al. (2016,
ICML). An archive holds the drawings of some alphabets; two may hold the same alphabet, and a test
must then leave it out on one side. The drawings are as the archive has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.partition_spec import Alphabets, Omniglot
from common.study import Study
from simulations.partitions.archive import (
    Pictures,
    check_as_declared,
    image_of,
    read_named,
    read_pictures,
    write_arrays,
)
from simulations.partitions.types import Hospital, round_count


def omniglot(
    study: Study, partition: Omniglot, *, data: Path | None, folder: Path, seed: int
) -> list[Hospital]:
    """Write each hospital's archive: images, labels (characters by name) and patient.

    A 'patient' is a drawing with all its rotations. Nothing is drawn, so `seed` is not needed.

    Raises:
        StudyError: the study expects a table.
        DataError: an archive is not there or damaged, lacks an array or an alphabet, has images of
            another size than the study's, or a hospital would have one class.
    """
    image = image_of(study)
    folder.mkdir(parents=True, exist_ok=True)
    hospitals = []
    for archive in partition.archives:
        path = ((data or Path()) / archive.path).resolve()
        pictures = read_pictures(path, image, patients=None)
        check_as_declared(path, pictures.images, image)
        characters = _characters(path, pictures)
        _check_alphabets(path, archive, characters)
        together = [archive.alphabets] if archive.together else [(a,) for a in archive.alphabets]
        for name, alphabets in zip(archive.names, together, strict=True):
            taken = np.isin([c.partition("/")[0] for c in characters], alphabets)
            file = folder / f"{name}.npz"
            labels = _write(file, pictures.select(taken), characters[taken], archive.rotations)
            classes = tuple(sorted(set(labels)))
            if len(classes) < 2:
                raise DataError(
                    f"hospital {name!r} has one character, and so one class",
                    remedy="put its alphabet together with others, or raise rotations",
                )
            own = classes if study.cohort.label.own else ()
            units = labels if study.cohort.patient is None else pictures.labels[taken]
            hospitals.append(Hospital(name, file, round_count(len(units)), classes=own))
    return hospitals


def _characters(path: Path, pictures: Pictures) -> NDArray[np.str_]:
    """Return the character of each drawing, 'Alphabet/characterNN', (records,)."""
    names: NDArray[Any] = read_named(path, ["classes"])["classes"]
    most = int(pictures.labels.max())
    if names.ndim != 1 or most >= len(names) or int(pictures.labels.min()) < 0:
        raise DataError(
            f"partition file {str(path)!r}: array 'classes' is {names.shape} and labels run from "
            f"{pictures.labels.min()} to {most}",
            remedy="give the name of each class, 'Alphabet/characterNN', in the order of labels",
        )
    return np.array(names, dtype=np.str_)[pictures.labels]


def _check_alphabets(path: Path, archive: Alphabets, characters: NDArray[np.str_]) -> None:
    known = sorted({str(c).partition("/")[0] for c in characters})
    absent = [alphabet for alphabet in archive.alphabets if alphabet not in known]
    if absent:
        raise DataError(
            f"partition file {str(path)!r} has no alphabet {absent[0]!r} (it has "
            f"{', '.join(known)})",
            remedy="mend simulation.partition.archives.alphabets",
        )


def _write(
    file: Path, pictures: Pictures, characters: NDArray[np.str_], rotations: int
) -> list[str]:
    """Write the drawings in each rotation, and return their classes, (rotations * records,)."""
    turned = [np.rot90(pictures.images, quarter, axes=(1, 2)) for quarter in range(rotations)]
    labels = [str(c) for c in characters]
    for quarter in range(1, rotations):
        labels += [f"{c} at {90 * quarter}" for c in characters]
    patients = np.tile(pictures.patients, rotations)
    write_arrays(file, images=np.concatenate(turned), labels=np.array(labels), patient=patients)
    return labels
