"""Distances between where hospitals' features lie, and one record's part in them.

A hospital knows two moments: its own as it released them, and the pooled ones. Both are given;
only the record's features move.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.alignment_spec import AlignmentSpec
from common.params import Params
from common.privacy.moments import covariance_of
from common.privacy.noise import SeededSource
from common.references import within
from common.seeds import derive

SUMS, PRODUCTS, KNOWN = "alignment.sums", "alignment.products", "alignment.known"
"""The pooled moments, and the weight they were pooled with, among a study's weights."""

RecordPart = Callable[[Tensor], Tensor]


def start(spec: AlignmentSpec, dim: int) -> Params:
    """Return the pooled moments as a run starts with them: none are known.

    Args:
        spec: The study's.
        dim: Of the features.
    """
    sizes = {SUMS: width(spec, dim), KNOWN: 1}
    if spec.kind == "coral":
        sizes[PRODUCTS] = dim * (dim + 1) // 2
    return {name: torch.zeros(size, device="cpu") for name, size in sizes.items()}


def width(spec: AlignmentSpec, dim: int) -> int:
    """Return how many numbers stand for a record."""
    return 2 * spec.frequencies if spec.kernel == "rbf" else dim


def embedded(spec: AlignmentSpec, z: Tensor) -> Tensor:
    """Return what stands for each record, (records, width), of norm at most `bound(spec)`.

    The features themselves, drawn in to the radius; or, of the kernel k(z, z') =
    exp(-|z - z'|^2 / (2 b^2)), random features (Rahimi and Recht 2007)
    m^(-1/2) (cos w_i . z, sin w_i . z), w_i ~ N(0, I / b^2), i = 1..m, whose products have k for
    their mean and whose norm is exactly 1. The w_i are the same for every hospital: a constant.
    """
    z = within(z, spec.radius)
    if spec.kernel == "linear":
        return z
    numbers = SeededSource(derive(0, "random features")).normal(z.shape[1] * spec.frequencies)
    w = torch.from_numpy(numbers).reshape(z.shape[1], spec.frequencies) / spec.bandwidth
    angles = z @ w.to(z)
    return torch.cat([angles.cos(), angles.sin()], dim=1) / float(spec.frequencies**0.5)


def bound(spec: AlignmentSpec) -> float:
    """Return the largest norm of what stands for a record."""
    return 1.0 if spec.kernel == "rbf" else spec.radius


def pooled(theta: Params) -> Params | None:
    """Return the pooled moments of the shared weights; None where none were pooled yet."""
    weight = float(theta[KNOWN])
    if weight <= 0:
        return None
    return {k: theta[k] / weight for k in (SUMS, PRODUCTS) if k in theta}


def record_part(spec: AlignmentSpec, own: Params, everybody: Params) -> RecordPart:
    """Return one record's part in the distance, as a function of its features z.

    With e(z) of `embedded`, m and C a hospital's own mean and covariance of it, m_p and C_p the
    pooled ones, d the width:

        mmd    L = |m - m_p|^2                   part 2 (m - m_p) . e(z)
        coral  L = |C - C_p|_F^2 / (4 d^2)       part (e(z) - m)^T (C - C_p) (e(z) - m) / (2 d^2)

    (Gretton et al. 2012; Sun and Saenko 2016, "Deep CORAL", equation 1.) In a part, m, C and the
    pooled moments are constants. The mean of the parts' gradients over all records is then the
    gradient of L with respect to the hospital's own moments, m_p and C_p held: for mmd,
    dL = 2 (m - m_p) . dm; for coral dL = <C - C_p, dC> / (2 d^2), and with m the mean
    dC = mean d[(e - m)(e - m)^T] whether m moves or not, for the mean of e - m is 0. A part's value
    is another than L's: it is for its gradient.

    Args:
        spec: Kind and embedding.
        own: 'alignment.sums' and, of coral, 'alignment.products' of the hospital, as means.
        everybody: The same, pooled.
    """
    apart = own[SUMS] - everybody[SUMS]
    if spec.kind == "mmd":
        return lambda z: 2 * (embedded(spec, z) @ apart.to(z)).sum()
    unit, mean = bound(spec), own[SUMS]
    gap = covariance_of(own[PRODUCTS], own[SUMS], unit) - covariance_of(
        everybody[PRODUCTS], everybody[SUMS], unit
    )

    def part(z: Tensor) -> Tensor:
        centred = embedded(spec, z) - mean.to(z)
        return ((centred @ gap.to(z)) * centred).sum() / (2 * gap.shape[0] ** 2)

    return part
