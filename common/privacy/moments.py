"""Mean and second moment of features: one noisy vector, of which one patient is a bounded part.

Guarantees
    Let z_r be record r's features, drawn in to a Euclidean norm of at most R, and for a patient j
    with records r_j

        u_j = mean over r in r_j of ( z_r,  z_r z_r^T / R ).

    The second part has Frobenius norm |z_r|^2 / R <= R. It is kept as the triangle of the symmetric
    matrix with every entry beside the diagonal times sqrt(2), whose Euclidean norm is that same
    Frobenius norm, so that no entry gets its noise twice. Each term has norm at most
    (R^2 + R^2)^(1/2), and so has their mean:

        |u_j| <= C_u = R sqrt(2)         (R alone, where no second moment is asked for)

    whatever the records are and however many; one that is not finite counts as no record and
    changes nobody else's share. By classes (`common.privacy.class_sums`, whose sums and counts
    stand in the place of z_r) it is ((R sqrt(5) / 2)^2 + R^2)^(1/2) = 3 R / 2.

    One patient more or less moves the vector of all sums by at most C_u, so with
    N(0, (sigma C_u)^2 I) it is one Gaussian mechanism of multiplier sigma, Poisson-subsampled where
    the patients are. Means by a public divisor or by noisy counts, covariances, and their
    eigenvalues lifted to 0 are post-processing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.cohort.parts import Part
from common.params import Params
from common.privacy import class_sums


@dataclass(frozen=True)
class Moments:
    """Where a hospital's features lie.

    Attributes:
        mean: (dim,).
        covariance: (dim, dim), symmetric, without negative eigenvalues.
        prototypes: Mean of each class, (classes, dim); None where classes were not asked for.
    """

    mean: Tensor
    covariance: Tensor
    prototypes: Tensor | None = None


def sensitivity(radius: float, *, second: bool = True, classes: bool = False) -> float:
    """Return C_u, the most that one patient adds, in Euclidean norm.

    >>> [sensitivity(2.0, second=False), round(sensitivity(2.0), 4), sensitivity(2.0, classes=True)]
    [2.0, 2.8284, 3.0]
    """
    first = class_sums.sensitivity(radius) if classes else radius
    return math.hypot(first, radius) if second else first


def moment_sums(
    places: Tensor, batch: Part, *, radius: float, second: bool = True, classes: int | None = None
) -> Params:
    """Return the sums over patients of u_j.

    Args:
        places: Features of the batch's records, (records, dim), of norm at most R.
        batch: The patients; may be empty.
        radius: R.
        second: Whether to sum second moments too.
        classes: How many classes to part the first sums by; None for one sum.

    Returns:
        'sums', (dim,) or (classes, dim), with classes 'counts' (classes,) in units of w, and with
        second moments 'products' (dim (dim + 1) / 2,) in units of R.
    """
    whole = batch if classes is not None else replace(batch, y=torch.zeros_like(batch.y))
    found = class_sums.class_sums(
        places, whole, classes=classes or 1, slots=1, weight=class_sums.count_weight(radius)
    )
    sums = {"sums": found["sums"][:, 0], "counts": found["counts"][:, 0]}
    if classes is None:
        sums = {"sums": sums["sums"][0]}
    if second:
        counted = torch.isfinite(places).all(1)
        places = torch.where(counted[:, None], places, torch.zeros_like(places))
        mass = (batch.weights * counted).to(places)
        sums["products"] = _triangle((places * mass[:, None]).T @ places) / radius
    return sums


def moments_of(sums: Params, *, radius: float, patients: float | None = None) -> Moments:
    """Return the moments that sums with second moments say, noisy or not.

    Args:
        sums: As `moment_sums` returns them.
        radius: R.
        patients: The public divisor; by classes their noisy counts divide.
    """
    first, prototypes = sums["sums"].double(), None
    if "counts" in sums:
        counts = (sums["counts"].double() / class_sums.count_weight(radius)).clamp(min=1.0)
        prototypes = first / counts[:, None]
        first, patients = first.sum(0), float(counts.sum())
    assert patients is not None  # without classes it is the caller's
    mean = first / patients
    covariance = covariance_of(sums["products"].double() / patients, mean, radius)
    return Moments(mean, lifted(covariance), prototypes)


def covariance_of(products: Tensor, mean: Tensor, radius: float) -> Tensor:
    """Return E[z z^T] - m m^T, (dim, dim), of mean products as `moment_sums` keeps them, and m."""
    return _symmetric(products * radius, len(mean)) - torch.outer(mean, mean)


def lifted(matrix: Tensor) -> Tensor:
    """Return the nearest symmetric matrix without negative eigenvalues, (dim, dim).

    >>> lifted(torch.diag(torch.tensor([2.0, -1.0]))).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    found: Tensor = (vectors * values.clamp(min=0)) @ vectors.T
    return found


def _triangle(matrix: Tensor) -> Tensor:
    """Return a symmetric matrix as a vector of the same Euclidean norm."""
    rows, columns = torch.triu_indices(*matrix.shape)
    return matrix[rows, columns] * torch.where(rows == columns, 1.0, math.sqrt(2)).to(matrix)


def _symmetric(triangle: Tensor, dim: int) -> Tensor:
    """Undo `_triangle`."""
    rows, columns = torch.triu_indices(dim, dim)
    values = triangle / torch.where(rows == columns, 1.0, math.sqrt(2)).to(triangle)
    matrix = triangle.new_zeros(dim, dim)
    matrix[rows, columns] = values
    matrix[columns, rows] = values
    return matrix
