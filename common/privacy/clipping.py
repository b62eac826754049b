"""Bounding what one patient can add.

Guarantees
    Whatever a vector g is, what is left of it is no longer than C, so that one patient more or less
    moves a sum of such vectors by at most C, and by 2 C where a patient is exchanged. Both rules
    scale g by a factor that depends on g alone:

        'norm'       C / max(C, |g|)     as long as it was, or C (Abadi et al. 2016)
        'automatic'  C / (|g| + C/100)   |g| C / (|g| + C/100) < C, for |g| < |g| + C/100

    The second normalises every vector (Bu et al. 2023, "Automatic clipping: differentially private
    deep learning made easier and stronger", equation 4.1, whose R is C and whose gamma of 0.01 is
    C/100 at their R of 1): short vectors are made longer, by up to a hundred, and C is a mere scale
    of the sum, which a learning rate takes up: halve the one, double the other.

    ==========================  ========================
    |g|                         length of what is left
    ==========================  ========================
    0                           0
    NaN, infinity               0
    beyond about C * 1e38       0
    beyond float32              0
    ==========================  ========================
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.study import Clipping

_STABILITY = 0.01  # gamma, in clips: keeps a vector of rounding errors from being made a whole clip


def clip_factors(
    norms: Tensor, *, clip: float, dtype: torch.dtype, rule: Clipping = "norm"
) -> Tensor:
    """Return what to multiply vectors of these norms with, so that none is longer than `clip`.

    A vector whose norm is not finite, or so long that its factor is no normal number of `dtype`,
    gets zero. The bound holds after rounding too: the factor leaves a margin of one part in a
    million, above the rounding error of a float32 product.

    Args:
        norms: Euclidean norms, any shape, float64.
        clip: C; by norm, infinity leaves every finite vector as it is.
        dtype: Of the vectors.
        rule: See the module.

    >>> norms = torch.tensor([0.5, 5.0, float("nan")], dtype=torch.float64)
    >>> clip_factors(norms, clip=1.0, dtype=torch.float32)
    tensor([1.0000, 0.2000, 0.0000])
    >>> clip_factors(norms, clip=1.0, dtype=torch.float32, rule="automatic")
    tensor([1.9608, 0.1996, 0.0000])
    """
    if rule == "automatic":
        if math.isinf(clip):
            raise ValueError(f"clip is {clip} and the rule 'automatic': give a finite clip")
        factors = clip * (1 - 1e-6) / (norms + _STABILITY * clip)
    else:
        factors = torch.where(norms <= clip, 1.0, clip * (1 - 1e-6) / norms)
    factors = factors.to(dtype)
    limits = torch.finfo(dtype)  # beyond the largest number some ways of a step see an infinity
    normal = (norms <= limits.max) & (factors >= limits.tiny)  # false for NaN
    return torch.where(normal, factors, torch.zeros_like(factors))


def clip_rows(rows: Tensor, *, clip: float, rule: Clipping = "norm") -> Tensor:
    """Scale each row to a Euclidean norm of at most `clip`; see `clip_factors`.

    >>> clip_rows(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), clip=1.0).norm(dim=1).round(decimals=3)
    tensor([1.0000, 0.5000])
    """
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    factors = clip_factors(norms, clip=clip, dtype=rows.dtype, rule=rule)
    return torch.where(factors > 0, rows * factors, torch.zeros_like(rows))
