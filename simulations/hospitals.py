"""The hospitals of a simulation: real ones in files of their own, or a public data set cut up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.scenario import Simulation
from common.study import Study
from simulations.partitions.archives import archives
from simulations.partitions.breast_cancer import breast_cancer
from simulations.partitions.by_column import by_column
from simulations.partitions.images import dealt_images
from simulations.partitions.omniglot import omniglot
from simulations.partitions.registry import registry
from simulations.partitions.reviews import reviews
from simulations.partitions.rows import dealt_rows
from simulations.partitions.types import Hospital

PARTITIONS: dict[str, Callable[..., list[Hospital]]] = {
    "breast_cancer": breast_cancer,
    "column": by_column,
    "images": dealt_images,
    "archives": archives,
    "omniglot": omniglot,
    "rows": dealt_rows,
    "reviews": reviews,
    "registry": registry,
}


def hospitals_of(study: Study, scenario: Simulation, *, folder: Path, seed: int) -> list[Hospital]:
    """Return a seed's hospitals in the order of their names, writing files where it must.

    Args:
        study: Its cohort says how features are scaled.
        scenario: Its simulation table.
        folder: Where the files of a partition are written.
        seed: Of the partition.

    Raises:
        StudyError: the partition takes more patients than there are.
        DataError: a hospital's file is not there, or not what the partition needs.
    """
    partition: Any = scenario.partition
    if partition is not None:
        cut = PARTITIONS[partition.source]
        hospitals = cut(
            study, partition, data=scenario.data, folder=folder / f"seed-{seed}", seed=seed
        )
        return sorted(hospitals, key=lambda h: h.name)
    data = scenario.data or Path()
    found = []
    for name, site in sorted(scenario.sites.items()):
        path = (data / site.path).resolve()
        if not path.is_file():
            raise DataError(
                f"hospital {name!r}: {str(path)!r} does not exist",
                remedy="check --data, GRANDROUNDS_DATA and simulation.sites",
            )
        found.append(Hospital(name, path, site.declared, classes=site.classes))
    return found
