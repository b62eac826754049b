"""Which hospital's body transfers best to a new one: a ranking from what they released alone.

Two figures of each source, for two questions.

    evidence   How well do its features explain the new hospital's few labels? LogME (You, Liu, Wang
               and Long 2021, "LogME: practical assessment of pre-trained models for transfer
               learning"): the log of p(y | F), per case and class, of a Bayesian linear model
               y = F w + noise, w ~ N(0, I / alpha), noise ~ N(0, I / beta), at the alpha and beta
               that make it largest. The weights are integrated out, so that of five cases in five
               hundred columns it does not say 'perfect', as the fit of any classifier does. The
               means of columns and labels are projected out, with their degree of freedom. It
               needs the source's body and the target's own cases.
    distance   How far are the source's patients from the target's, in that body's space? Frechet's
               distance between Gaussians of their moments (Dowson and Landau 1982; Heusel et al.
               2017):  |m_s - m_t|^2 + tr(C_s + C_t - 2 (C_s^(1/2) C_t C_s^(1/2))^(1/2)),
               over tr(C_s), so that bodies of other scales compare. It needs the source's released
               moments too.

The ranking is by evidence: it looks at labels, and a body from far away may still part the new
classes; a body from near may not. Distance tells a map (`common.transfer.mapping`) how much there
is to do, and parts sources of equal evidence.

Guarantees
    A source is known by its body, the outcome of accounted training, and by the moments that it
    released at a price (`common.privacy.moments`): this is post-processing of the two. The target's
    cases are looked at without noise, so figures and ranking stay at the target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.privacy.moments import Moments
from common.transfer.cases import Cases
from common.transfer.mapping import own_moments


@dataclass(frozen=True)
class Source:
    """What a target knows of a source.

    Attributes:
        cases: The target's labelled cases as the source's body sees them.
        moments: Of the source's own patients, as released; None without.
        places: The same labelled cases in the space of the moments, where that is another.
    """

    cases: Cases
    moments: Moments | None = None
    places: Cases | None = None


@dataclass(frozen=True)
class Choice:
    """One row of the ranking, the best source first.

    Attributes:
        name: Of the source.
        evidence: LogME of the target's labels under its body; higher is better.
        distance: From its patients to the target's, relative; None where it released no moments.
    """

    name: str
    evidence: float
    distance: float | None


def ranking(sources: Mapping[str, Source]) -> tuple[Choice, ...]:
    """Return the sources by evidence, and by distance where that is equal."""
    rows = [
        Choice(
            name,
            evidence(source.cases),
            None if source.moments is None else relative_distance(source),
        )
        for name, source in sources.items()
    ]
    far = math.inf
    return tuple(
        sorted(rows, key=lambda r: (-r.evidence, far if r.distance is None else r.distance, r.name))
    )


def relative_distance(source: Source) -> float:
    """Return Frechet's distance from source to target, over the source's own spread."""
    assert source.moments is not None
    spread = float(source.moments.covariance.trace())
    cases = source.places or source.cases
    found = frechet(source.moments, own_moments(cases.x))
    return found / max(spread, torch.finfo(torch.float64).tiny)


def frechet(one: Moments, other: Moments) -> float:
    """Return the squared Frechet distance between two Gaussians.

    >>> unit = torch.eye(2, dtype=torch.float64)
    >>> at = [Moments(torch.tensor([m, 0.0]), s * unit) for m, s in ((0.0, 1.0), (3.0, 4.0))]
    >>> round(frechet(*at), 6)  # 9 + 2 (1 - 2)^2
    11.0
    """
    root = _root(one.covariance.double())
    middle = _root(root @ other.covariance.double() @ root)
    apart = (one.mean.double() - other.mean.double()).square().sum()
    found = apart + one.covariance.trace() + other.covariance.trace() - 2 * middle.trace()
    return max(0.0, float(found))


def evidence(cases: Cases, *, steps: int = 200) -> float:
    """Return LogME: the mean over classes of the log evidence of a class's 0/1 labels, per case.

    Args:
        cases: Features of labelled cases, (cases, dim).
        steps: At most so many of the fixed point of alpha and beta (the paper's algorithm 1).
    """
    x = cases.x.double()
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    rank = min(len(x) - 1, x.shape[1])  # the constant direction is projected out
    labels = F.one_hot(cases.y, cases.ways).double()
    found = [_log_evidence(u[:, :rank], s[:rank].square(), y - y.mean(), steps) for y in labels.T]
    return sum(found) / len(found) / (len(x) - 1)


def _log_evidence(u: Tensor, squares: Tensor, y: Tensor, steps: int) -> float:
    """Return log p(y | F) at its largest over alpha and beta, F = U diag(squares)^(1/2) V^T."""
    freedom, along = len(y) - 1, u.T @ y
    outside = float((y.square().sum() - along.square().sum()).clamp(min=0))
    alpha, beta = 1.0, 1.0
    for _ in range(steps):
        before = alpha / beta
        part = beta * squares / (alpha + beta * squares)
        weights = float((beta * along * squares.sqrt() / (alpha + beta * squares)).square().sum())
        missed = float(((1 - part) * along).square().sum()) + outside
        used = float(part.sum())
        alpha = used / max(weights, _TINY)
        beta = (freedom - used) / max(missed, _TINY)
        alpha, beta = (min(max(v, _TINY), _HUGE) for v in (alpha, beta))
        if abs(alpha / beta - before) <= 1e-6 * before:
            break
    # y ~ N(0, I / beta + F F^T / alpha): along U its variance is 1/beta + s^2/alpha.
    variances = 1 / beta + squares / alpha
    rest = freedom - len(squares)
    fit = float((along.square() / variances).sum()) + beta * outside
    size = float(variances.log().sum()) - rest * math.log(beta)
    return -0.5 * (fit + size + freedom * math.log(2 * math.pi))


_TINY, _HUGE = 1e-12, 1e12


def _root(matrix: Tensor) -> Tensor:
    """Return the root of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    found: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return found
