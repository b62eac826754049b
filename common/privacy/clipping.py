"""Bounding what one patient can add."""

from __future__ import annotations

import torch
from torch import Tensor


def clip_factors(norms: Tensor, *, clip: float, dtype: torch.dtype) -> Tensor:
    """Return what to multiply vectors of these norms with, so that none is longer than `clip`.

    A vector whose norm is not finite, or so long that its factor is no normal number of `dtype`,
    gets zero. The bound holds after rounding too: the factor leaves a margin of one part in a
    million, above the rounding error of a float32 product.

    Args:
        norms: Euclidean norms, any shape, float64.
        clip: C; infinity leaves every finite vector as it is.
        dtype: Of the vectors.

    >>> norms = torch.tensor([0.5, 5.0, float("nan")], dtype=torch.float64)
    >>> clip_factors(norms, clip=1.0, dtype=torch.float32)
    tensor([1.0000, 0.2000, 0.0000])
    """
    factors = torch.where(norms <= clip, 1.0, clip * (1 - 1e-6) / norms).to(dtype)
    normal = torch.isfinite(norms) & (factors >= torch.finfo(dtype).tiny)  # false for NaN
    return torch.where(normal, factors, torch.zeros_like(factors))


def clip_rows(rows: Tensor, *, clip: float) -> Tensor:
    """Scale each row down to Euclidean norm `clip` where it is longer; see `clip_factors`.

    >>> clip_rows(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), clip=1.0).norm(dim=1).round(decimals=3)
    tensor([1.0000, 0.5000])
    """
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    factors = clip_factors(norms, clip=clip, dtype=rows.dtype)
    return torch.where(factors > 0, rows * factors, torch.zeros_like(rows))
