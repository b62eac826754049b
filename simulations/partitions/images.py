"""Hospitals made of one archive of images: skewed in their case mix, each with a camera of its own.

For a seed, the patients whose labels are asked for are dealt to the hospitals, each outcome by
proportions from a Dirichlet distribution (Hsu et al. 2019): the smaller alpha, the more their case
mixes differ. A patient stays whole; one with two labels is dealt by the higher. Each hospital's
images then pass through its own gamma, contrast, brightness, blur and noise, drawn once for the
hospital. Case mix and cameras are simulated; patients, images and labels are real.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.files import write_atomic
from common.scenario import DealtImages
from common.study import Study
from simulations.partitions.types import Hospital

_ROUNDED_TO = 10  # a declared size is a round number at most the true one


def dealt_images(
    study: Study, partition: DealtImages, *, data: Path | None, folder: Path, seed: int
) -> list[Hospital]:
    """Write each hospital's archive (images, labels, patient) and return the hospitals.

    Raises:
        DataError: the archive is not there, lacks an array, or has too few patients.
    """
    images, labels, patients = _load((data or Path()) / partition.path, partition)
    rng = np.random.default_rng([2018, seed])
    names, index = np.unique(patients, return_inverse=True)
    outcome = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(outcome, index, labels)
    dealt = _deal(outcome, partition, rng)
    folder.mkdir(parents=True, exist_ok=True)
    hospitals = []
    for number in range(partition.hospitals):
        keep = dealt[index] == number
        size = int((dealt == number).sum())
        if size < _ROUNDED_TO:
            raise DataError(
                f"simulation.partition deals {size} patients to hospital {number + 1}",
                remedy="lower simulation.partition.hospitals or raise its alpha",
            )
        name = f"hospital-{number + 1}"
        path = folder / f"{name}.npz"
        seen = _camera(images[keep], partition, rng)
        _write(path, images=seen, labels=labels[keep], patient=patients[keep])
        hospitals.append(Hospital(name, path, size // _ROUNDED_TO * _ROUNDED_TO))
    return hospitals


def _load(
    path: Path, partition: DealtImages
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_]]:
    try:
        with np.load(path.resolve(), allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"].astype(np.int64)
            patients = archive["patient"].astype(str)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"partition file {str(path)!r} cannot be read: {error}",
            remedy="check --data, GRANDROUNDS_DATA and simulation.partition.path",
        ) from None
    if partition.labels:
        keep = np.isin(labels, partition.labels)
        images, labels, patients = images[keep], labels[keep], patients[keep]
    return images, labels, patients


def _deal(
    outcome: NDArray[np.int64], partition: DealtImages, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return each patient's hospital, (patients,)."""
    dealt = np.zeros(len(outcome), dtype=np.int64)
    for value in np.unique(outcome):
        group = rng.permutation(np.flatnonzero(outcome == value))
        shares = rng.dirichlet(np.full(partition.hospitals, partition.alpha))
        ends = np.round(np.cumsum(shares) * len(group)).astype(np.int64)
        dealt[group] = np.searchsorted(ends, np.arange(len(group)), side="right")
    return dealt


def _camera(
    images: NDArray[np.uint8], partition: DealtImages, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the images as this hospital's camera would have taken them."""
    from scipy.ndimage import gaussian_filter  # only this partition waits for it

    gamma = np.exp(partition.gamma * rng.standard_normal())
    contrast = np.exp(partition.contrast * rng.standard_normal())
    brightness = partition.brightness * rng.standard_normal()
    blur, noise = partition.blur * rng.uniform(), partition.noise * rng.uniform()
    x = (images / 255.0) ** gamma
    x = (x - 0.5) * contrast + 0.5 + brightness
    x = gaussian_filter(x, sigma=(0.0, blur, blur, 0.0)[: x.ndim])
    x = x + noise * rng.standard_normal(x.shape)
    return np.asarray(np.round(np.clip(x, 0.0, 1.0) * 255), dtype=np.uint8)


def _write(path: Path, **arrays: NDArray[np.generic]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomic(path, buffer.getvalue())
