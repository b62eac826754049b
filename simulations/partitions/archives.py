"""Hospitals that are archives of images, each with classes of its own: other organs and diseases.

Nothing is drawn and no image is changed; copies are left out where the study says so.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import DataError
from common.partition_spec import Archives, ArchiveSite
from common.study import Study
from simulations.partitions.archive import (
    Pictures,
    check_as_declared,
    first_copies,
    image_of,
    read_pictures,
    write_arrays,
)
from simulations.partitions.types import Hospital


def archives(
    study: Study, partition: Archives, *, data: Path | None, folder: Path, seed: int
) -> list[Hospital]:
    """Write each hospital's archive: images, labels (its classes by name) and patient.

    An image of an archive without patients is a patient, known by its content. Nothing is drawn, so
    `seed` is not needed.

    Raises:
        StudyError: the study expects a table.
        DataError: an archive is not there or damaged, lacks an array, has images of another size or
            depth than the study's, or no image of a class.
    """
    image = image_of(study)
    folder.mkdir(parents=True, exist_ok=True)
    hospitals = []
    for name, site in sorted(partition.hospitals.items()):
        path = ((data or Path()) / site.path).resolve()
        pictures = read_pictures(path, image, patients=None)
        check_as_declared(path, pictures.images, image)
        kept, notes = first_copies(pictures) if site.drop_copies else (None, ())
        if kept is not None:
            pictures = pictures.select(kept)
        file = folder / f"{name}.npz"
        _write(file, pictures, site, name)
        own = site.classes if study.cohort.label.own else ()
        hospitals.append(Hospital(name, file, site.declared, notes, own))
    return hospitals


def _write(file: Path, pictures: Pictures, site: ArchiveSite, name: str) -> None:
    """Write the images of the hospital's classes, the class's name in the label's place."""
    numbers = site.labels or tuple(range(len(site.classes)))
    empty = [c for c, n in zip(site.classes, numbers, strict=True) if n not in pictures.labels]
    if empty:
        raise DataError(
            f"hospital {name!r}: no image of {str(site.path)!r} is of class {empty[0]!r} (labels "
            f"there are {', '.join(map(str, np.unique(pictures.labels)))})",
            remedy="mend classes or labels of the hospital in simulation.partition.hospitals",
        )
    named = dict(zip(numbers, site.classes, strict=True))
    taken = pictures.select(np.isin(pictures.labels, numbers))
    texts = np.array([named[int(label)] for label in taken.labels])
    write_arrays(file, images=taken.images, labels=texts, patient=taken.patients)
