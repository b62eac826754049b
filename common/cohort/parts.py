"""The values a cohort is made of once it is read: tensors, with the patient behind each record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Patients of one part of a cohort.

    Attributes:
        x: Inputs, (records, features) or (records, channels, height, width), float32.
        y: Class of each record, (records,), int64.
        patient: Index of each record's patient, (records,), int64, from 0 to `patients` - 1.
        patients: How many patients there are. Private: it never leaves the site.
        draws: Two uniforms of each patient, (patients, 2), float64, from a keyed hash of the id
            (`common.cohort.split.task_draws`): what parts patients again, for good. None where
            nothing is to be parted.
        views: Of a step's sample, how each copy of a record is to be altered, (records, copies, 4),
            int64 (`common.privacy.augmentation`). None: each record once, as it is.
    """

    x: Tensor
    y: Tensor
    patient: Tensor
    patients: int
    draws: Tensor | None = None
    views: Tensor | None = None

    @cached_property
    def most_records(self) -> int:
        """The most records that one patient has."""
        return int(torch.bincount(self.patient).max()) if self.patient.numel() else 0

    @cached_property
    def weights(self) -> Tensor:
        """Unit mass a patient, shared over the patient's records, (records,), float64.

        >>> part = Part(torch.zeros(3, 1), torch.zeros(3), torch.tensor([0, 0, 1]), 2)
        >>> part.weights.tolist()
        [0.5, 0.5, 1.0]
        """
        counts = torch.bincount(self.patient, minlength=self.patients)
        return 1.0 / counts[self.patient].to(torch.float64)

    def select(self, records: Tensor) -> Part:
        """Return the given records, (n,) indices, with their patients numbered anew."""
        kept, index = torch.unique(self.patient[records], return_inverse=True)
        draws = None if self.draws is None else self.draws[kept]
        views = None if self.views is None else self.views[records]
        return Part(self.x[records], self.y[records], index, int(kept.numel()), draws, views)

    def of_patients(self, chosen: Tensor) -> Part:
        """Return the records of the chosen patients, (patients,) bool."""
        return self.select(torch.nonzero(chosen[self.patient]).reshape(-1))


@dataclass(frozen=True)
class Cohort:
    """A site's patients in parts, and the public, rounded count of all of them.

    Attributes:
        name: The site's name.
        declared: Rounded count of all patients, chosen by the site, public.
        train: The part that learning may touch.
        holdout: The part that evaluation may touch.
        notes: What the reader saw (clamped or missing values): for the site's own eyes.
        eligible: How many records the file holds, before incomplete ones are left out.
        missing: How many of these miss each feature that any misses: (feature, records).
        classes: How many classes the hospital names; public.
    """

    name: str
    declared: int
    train: Part
    holdout: Part
    notes: tuple[str, ...] = ()
    eligible: int = 0
    missing: tuple[tuple[str, int], ...] = ()
    classes: int = 2


def join(parts: list[Part]) -> Part:
    """Return the patients of several parts as one: only a simulation can do this."""
    offsets = [sum(p.patients for p in parts[:i]) for i in range(len(parts))]
    draws = [p.draws for p in parts if p.draws is not None]
    return Part(
        torch.cat([p.x for p in parts]),
        torch.cat([p.y for p in parts]),
        torch.cat([p.patient + o for p, o in zip(parts, offsets, strict=True)]),
        sum(p.patients for p in parts),
        torch.cat(draws) if len(draws) == len(parts) else None,
    )
