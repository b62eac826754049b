"""Several altered copies of each picture, whose gradients are averaged before the one clip.

Guarantees
    A copy is one more row of its patient: the patient's gradient is the mean over the copies of all
    the patient's records, and is clipped once (`common.privacy.engine`), so it adds at most C to
    the sum, however many copies there are (De et al. 2022, "Unlocking high-accuracy differentially
    private image classification through scale", section 3.3: the price stays as it was).

    How a record's copies are altered is drawn independently of all data, and of how anybody else's
    are: given those draws the step is the mechanism that was priced, so it is on average over them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from common.cohort.parts import Part
from common.learner_spec import AugmentationSpec
from common.privacy.noise import Source


def with_views(batch: Part, spec: AugmentationSpec | None, source: Source) -> Part:
    """Draw how each copy of each record is to be altered; nothing is copied yet.

    Args:
        batch: Records as (channels, height, width).
        spec: None leaves the batch as it is, and the source untouched.
        source: The stream that decides.
    """
    if spec is None:
        return batch
    draws = torch.from_numpy(source.uniform(3 * spec.copies * len(batch.x)))
    draws = draws.reshape(len(batch.x), spec.copies, 3)
    views = torch.floor(draws * (2 * spec.shift + 1)).to(torch.int64) - spec.shift
    views[..., 0] = (draws[..., 0] < 0.5) & spec.flip
    return replace(batch, views=views)


def copies_of(batch: Part) -> int:
    """Return how many rows `expanded` makes of a record."""
    return 1 if batch.views is None else batch.views.shape[1]


def expanded(batch: Part) -> Part:
    """Return the batch with each altered copy as a record of its patient."""
    if batch.views is None:
        return batch
    copies = copies_of(batch)
    return Part(
        _altered(batch.x.repeat_interleave(copies, dim=0), batch.views.flatten(0, 1)),
        batch.y.repeat_interleave(copies),
        batch.patient.repeat_interleave(copies),
        batch.patients,
        batch.draws,
    )


def _altered(x: Tensor, views: Tensor) -> Tensor:
    """Mirror and move each of x (records, channels, height, width); the edge fills what is bared.

    Args:
        x: Pictures.
        views: (records, 3): whether mirrored, by how many pixels down, by how many to the right.
    """
    height, width = x.shape[-2:]
    mirrored, down, right = (column[:, None] for column in views.unbind(dim=1))
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    columns = torch.where(mirrored > 0, width - 1 - columns, columns)
    x = x.gather(2, rows[:, None, :, None].expand(*x.shape[:2], height, width))
    return x.gather(3, columns[:, None, None, :].expand_as(x))
