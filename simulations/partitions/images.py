"""Hospitals made of one archive of images: skewed in their case mix, each with a camera of its own.

For a seed, the patients whose labels are asked for are dealt to the hospitals, each outcome by
proportions from a Dirichlet distribution (Hsu et al. 2019): the smaller alpha, the more their case
mixes differ. A patient stays whole; one with two labels is dealt by the higher. Each hospital's
images then pass through its own gamma, contrast, brightness, blur and noise, drawn once for the
hospital. Case mix and cameras are simulated; patients, images and labels are real.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cohort.images import check_images, clamped, one_each, read_archive
from common.errors import DataError, StudyError
from common.files import write_atomic
from common.partition_spec import DealtImages
from common.study import Study
from simulations.partitions.types import Hospital

Archive = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.str_]]

_ARRAYS = ("images", "labels", "patient")
_ROUNDED_TO = 10  # a declared size is a round number at most the true one


def dealt_images(
    study: Study, partition: DealtImages, *, data: Path | None, folder: Path, seed: int
) -> list[Hospital]:
    """Write each hospital's archive (images, labels, patient) and return the hospitals.

    Raises:
        StudyError: the study expects a table.
        DataError: the archive is not there or damaged, lacks an array or has one of another shape,
            or has too few patients.
    """
    path = ((data or Path()) / partition.path).resolve()
    images, labels, patients = _load(study, partition, path)
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
        file = folder / f"{name}.npz"
        seen = _camera(images[keep], partition, rng)
        _write(file, images=seen, labels=labels[keep], patient=patients[keep])
        declared = size // _ROUNDED_TO * _ROUNDED_TO
        hospitals.append(Hospital(name, file, declared, clamped(images[keep])))
    return hospitals


def _load(study: Study, partition: DealtImages, path: Path) -> Archive:
    """Return the images asked for, (records, height, width[, channels]), labels and patients."""
    image = study.cohort.image
    if image is None:
        raise StudyError(
            "simulation.partition deals images, and the study expects a table",
            remedy="give the study a cohort.image table, or another partition",
        )
    try:
        arrays = read_archive(path, lambda archive: _pick(path, archive))
        images = arrays["images"]
        check_images(path, images if images.ndim != 3 else images[..., None], image)
        texts = [one_each(path, name, arrays[name], len(images)) for name in ("labels", "patient")]
    except DataError as error:
        told = error.message.replace("cohort file", "partition file", 1)
        raise DataError(told, remedy=error.remedy) from error
    labels, patients = _numbers(path, texts[0]), np.array(texts[1])
    if partition.labels:
        keep = np.isin(labels, partition.labels)
        images, labels, patients = images[keep], labels[keep], patients[keep]
    return images, labels, patients


def _pick(path: Path, archive: Any) -> dict[str, NDArray[Any]]:
    absent = [name for name in _ARRAYS if name not in archive.files]
    if absent:
        raise DataError(
            f"cohort file {str(path)!r} has no array {absent[0]!r} "
            f"(it has {', '.join(archive.files)})",
            remedy=f"a partition deals whole patients: it needs the arrays {', '.join(_ARRAYS)}, "
            "one entry an image each",
        )
    return {name: archive[name] for name in _ARRAYS}


def _numbers(path: Path, texts: Sequence[str]) -> NDArray[np.int64]:
    try:
        return np.array([float(text) for text in texts]).astype(np.int64)
    except ValueError:
        raise DataError(
            f"partition file {str(path)!r}: a label is no number (labels are {texts[0]!r}, ...)",
            remedy="number the outcomes from 0; the study's label.map names them",
        ) from None


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


def _write(path: Path, **arrays: NDArray[np.generic]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomic(path, buffer.getvalue())
