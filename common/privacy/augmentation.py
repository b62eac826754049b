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
import torch.nn.functional as F
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
    draws = torch.from_numpy(source.uniform(4 * spec.copies * len(batch.x)))
    draws = draws.reshape(len(batch.x), spec.copies, 4)
    most = torch.tensor([0, spec.shift, spec.shift, spec.rotation])
    views = torch.floor(draws * (2 * most + 1)).to(torch.int64) - most
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
    """Mirror, turn and move each of x (records, channels, height, width).

    What is bared at the edge takes the nearest value there is.

    Args:
        x: Pictures.
        views: (records, 4): whether mirrored, by how many pixels down, by how many to the right, by
            how many degrees anticlockwise.
    """
    height, width = x.shape[-2:]
    mirrored, down, right, _ = (column[:, None] for column in views.unbind(dim=1))
    x = torch.where(mirrored[:, :, None, None] > 0, x.flip(3), x)
    x = _turned(x, views[:, 3])
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    x = x.gather(2, rows[:, None, :, None].expand(*x.shape[:2], height, width))
    return x.gather(3, columns[:, None, None, :].expand_as(x))


def _turned(x: Tensor, degrees: Tensor) -> Tensor:
    """Turn each picture about its middle, by degrees (records,), interpolating linearly."""
    if not bool(degrees.any()):
        return x
    height, width = x.shape[-2:]
    angle = torch.deg2rad(degrees.double()).to(x)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # Where each new pixel comes from, with both sides counted from -1 to 1: hence the ratios.
    across = torch.stack([cos, -sin * height / width, zero], dim=1)
    along = torch.stack([sin * width / height, cos, zero], dim=1)
    grid = F.affine_grid(torch.stack([across, along], dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
