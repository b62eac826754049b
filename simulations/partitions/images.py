"""Hospitals made of one archive of images: skewed in their case mix, each with a camera of its own.

For a seed, the patients whose labels are asked for are dealt to the hospitals, each outcome by
proportions from a Dirichlet distribution (Hsu et al. 2019): the smaller alpha, the more their case
mixes differ. A patient stays whole; one with two labels is dealt by the higher. Where an archive
names no patients each image is dealt by itself: two of one patient can then meet in two hospitals,
or on both sides of a split. Each hospital's images then pass through its own gamma, contrast,
brightness, blur and noise, drawn once for the hospital. Case mix and cameras are simulated;
patients, images and labels are real.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cohort.images import clamped
from common.partition_spec import DealtImages
from common.study import Study
from simulations.partitions.archive import (
    Pictures,
    first_copies,
    image_of,
    read_pictures,
    write_arrays,
)
from simulations.partitions.dealing import check_hospital, deal
from simulations.partitions.types import Hospital, round_count


def dealt_images(
    study: Study, partition: DealtImages, *, data: Path | None, folder: Path, seed: int
) -> list[Hospital]:
    """Write each hospital's archive (images, labels, patient) and return the hospitals.

    Raises:
        StudyError: the study expects a table.
        DataError: the archive is not there or damaged, lacks an array or has one of another shape,
            or a hospital has too few patients or one outcome.
    """
    path = ((data or Path()) / partition.path).resolve()
    pictures = _load(study, partition, path)
    rng = np.random.default_rng([2018, seed])
    names, index = np.unique(pictures.patients, return_inverse=True)
    outcome = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(outcome, index, pictures.labels)
    dealt = deal(outcome, hospitals=partition.hospitals, alpha=partition.alpha, rng=rng)
    folder.mkdir(parents=True, exist_ok=True)
    hospitals = []
    for number in range(partition.hospitals):
        keep = dealt[index] == number
        check_hospital(outcome[dealt == number], number + 1)
        name = f"hospital-{number + 1}"
        file = folder / f"{name}.npz"
        own = pictures.select(keep)
        seen = _camera(own.images, partition, rng)
        write_arrays(file, images=seen, labels=own.labels, patient=own.patients)
        declared = round_count(int((dealt == number).sum()))
        hospitals.append(Hospital(name, file, declared, clamped(own.images)))
    return hospitals


def _load(study: Study, partition: DealtImages, path: Path) -> Pictures:
    """Return the images asked for."""
    pictures = read_pictures(path, image_of(study), patients=partition.unit == "patient")
    if partition.labels:
        pictures = pictures.select(np.isin(pictures.labels, partition.labels))
    return pictures.select(first_copies(pictures)[0]) if partition.drop_copies else pictures


def _camera(
    images: NDArray[Any], partition: DealtImages, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the images as this hospital's camera would have taken them."""
    from scipy.ndimage import gaussian_filter  # only this partition waits for it

    gamma = np.exp(partition.gamma * rng.standard_normal())
    contrast = np.exp(partition.contrast * rng.standard_normal())
    brightness = partition.brightness * rng.standard_normal()
    blur, noise = partition.blur * rng.uniform(), partition.noise * rng.uniform()
    x = (np.clip(images, 0, 255) / 255.0) ** gamma
    x = (x - 0.5) * contrast + 0.5 + brightness
    x = gaussian_filter(x, sigma=(0.0, blur, blur, 0.0)[: x.ndim])
    x = x + noise * rng.standard_normal(x.shape)
    return np.asarray(np.round(np.clip(x, 0.0, 1.0) * 255), dtype=np.uint8)
