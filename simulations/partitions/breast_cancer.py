"""Six hospitals made of scikit-learn's Wisconsin breast cancer data (Wolberg et al. 1995).

For a seed, patients of each outcome are shuffled; each hospital in turn takes its number of
malignant and benign ones, so no patient is in two. Features fall into four groups that one
instrument measures (size; texture; shape; surface). For each hospital, each group gets a gain
exp(gain * z) and an offset (offset * z, in units of the feature's scale), and each measurement an
independent error whose size is drawn for the hospital from `repeat`. Values are not negative.
Sizes, case mix and errors are chosen; the patients and their outcomes are real.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import StudyError
from common.files import write_atomic
from common.partition_spec import BreastCancer
from common.study import Study
from simulations.partitions.types import Hospital

# Which of the ten measurements one instrument makes: size, texture, shape, surface.
_GROUPS = np.array([0, 1, 0, 0, 3, 2, 2, 2, 3, 3])


def breast_cancer(
    study: Study, partition: BreastCancer, *, data: Path | None, folder: Path, seed: int
) -> list[Hospital]:
    """Write each hospital's CSV file and return the hospitals; `data` is not needed.

    Raises:
        StudyError: the partition takes more patients than there are.
    """
    table = _breast_cancer()
    scales = {f.name: f.scale or 1.0 for f in study.cohort.features}
    names = [c for c in table.columns if c in scales]
    rng = np.random.default_rng([1995, seed])
    is_positive = (table["diagnosis"] == "malignant").to_numpy()
    positives = rng.permutation(np.flatnonzero(is_positive))
    negatives = rng.permutation(np.flatnonzero(~is_positive))
    _enough(partition, len(positives), len(negatives))
    folder.mkdir(parents=True, exist_ok=True)
    hospitals = []
    for site in partition.hospitals:
        chosen = [positives[: site.positives], negatives[: site.patients - site.positives]]
        positives = positives[site.positives :]
        negatives = negatives[site.patients - site.positives :]
        rows = table.iloc[np.sort(np.concatenate(chosen))].copy()
        scale = np.array([scales[n] for n in names])
        rows[names] = _measured(rows[names].to_numpy(), scale, partition, rng)
        path = folder / f"{site.name}.csv"
        write_atomic(path, rows.to_csv(index=False, float_format="%.6g"))
        hospitals.append(Hospital(site.name, path, site.declared))
    return sorted(hospitals, key=lambda h: h.name)


def _measured(
    values: NDArray[np.float64],
    scale: NDArray[np.float64],
    partition: BreastCancer,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return what this hospital's instruments would have read, (patients, features)."""
    gain = np.exp(partition.gain * rng.standard_normal(4))[_GROUPS]
    offset = (partition.offset * rng.standard_normal(4))[_GROUPS]
    error = rng.uniform(*partition.repeat) * rng.standard_normal(values.shape)
    return np.asarray(np.maximum(gain * values + (offset + error) * scale, 0.0))


def _breast_cancer() -> pd.DataFrame:
    """Return the Wisconsin data: patient, the ten mean measurements, diagnosis."""
    from sklearn.datasets import load_breast_cancer  # 0.4 s, and only this partition needs it

    bunch = load_breast_cancer()
    names = [str(n).removeprefix("mean ").replace(" ", "_") for n in bunch.feature_names[:10]]
    table = pd.DataFrame(bunch.data[:, :10], columns=names)
    table.insert(0, "patient", [f"p{i:03d}" for i in range(len(table))])
    table["diagnosis"] = np.where(bunch.target == 0, "malignant", "benign")
    return table


def _enough(partition: BreastCancer, positives: int, negatives: int) -> None:
    wanted = sum(h.positives for h in partition.hospitals)
    others = sum(h.patients - h.positives for h in partition.hospitals)
    if wanted > positives or others > negatives:
        raise StudyError(
            f"simulation.partition takes {wanted} positive and {others} negative patients; "
            f"{partition.source} has {positives} and {negatives}",
            remedy="lower the hospitals' patients or positives",
        )
