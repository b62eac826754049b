"""A linear map between feature spaces: from a target's features to where a source's lie.

All of it works from what a source released, with its price (`common.privacy.moments`), and from the
target's own cases; no case of the source is looked at. What a target makes of its own cases here
stays there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from common.privacy.moments import Moments, lifted
from common.references import DISTANCES
from common.transfer.cases import Cases, Method

Judge = Callable[[Tensor], Tensor]
"""The source's scores, (cases, classes), of places in its space, (cases, dim); differentiable."""


@dataclass(frozen=True)
class Mapping:
    """h(x) = weight x + shift.

    Attributes:
        weight: (source's dim, target's dim), float64.
        shift: (source's dim,), float64.
    """

    weight: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return where features x, (cases, target's dim), lie in the source's space."""
        return x.double() @ self.weight.T + self.shift


def by_moments(target: Moments, source: Moments, *, ridge: float = 1e-3) -> Mapping:
    """Return the map that gives the target's features the source's mean and covariance.

    Whitening and colouring: h(x) = m_s + C_s^(1/2) C_t^(-1/2) (x - m_t) (CORAL: Sun, Feng and
    Saenko 2016, "Return of frustratingly easy domain adaptation", algorithm 1, which maps the
    source instead and adds 1 to each eigenvalue).

    Args:
        target: Of the target's own features, labelled or not.
        source: As the source released them.
        ridge: Added to all eigenvalues, as a share of their mean over both spaces: a direction in
            which the target's few cases do not spread is not blown up.
    """
    floor = ridge * float((target.covariance.trace() + source.covariance.trace()) / 2)
    floor /= len(target.mean)
    colour = _power(source.covariance, 0.5, floor)
    whiten = _power(target.covariance, -0.5, floor)
    weight = colour @ whiten
    return Mapping(weight, source.mean.double() - weight @ target.mean.double())


def own_moments(x: Tensor) -> Moments:
    """Return the moments of a target's own features, (cases, dim); they stay at the target.

    The covariance is Ledoit and Wolf's (2004, scikit-learn's): of fewer cases than columns the
    plain one is singular.
    """
    found, _ = ledoit_wolf(x.double().numpy())
    return Moments(x.double().mean(0), lifted(torch.from_numpy(found).double()))


def to_prototypes(cases: Cases, prototypes: Tensor, *, ridge: float = 1.0) -> Mapping:
    """Return the affine map that brings labelled cases near the source's means of their classes.

    Minimises mean_i |A x_i + b - p_{y_i}|^2 + ridge s |A - I|^2 with s the mean square of a column
    of the centred cases; in closed form. A large ridge leaves A at the identity, so that b alone,
    the mean difference, is learnt.

    Args:
        cases: Features, of as many columns as the prototypes.
        prototypes: The source's released means, (ways, dim).
        ridge: Strength of the pull to the identity.
    """
    x, aims = cases.x.double(), prototypes.double()[cases.y]
    centred, residual = x - x.mean(0), (aims - aims.mean(0)) - (x - x.mean(0))
    gram = centred.T @ centred / len(x)
    scale = ridge * (gram.trace() / len(gram)).clamp(min=torch.finfo(gram.dtype).tiny)
    identity = torch.eye(x.shape[1], dtype=torch.float64)
    weight = identity + torch.linalg.solve(gram + scale * identity, centred.T @ residual / len(x)).T
    return Mapping(weight, aims.mean(0) - weight @ x.mean(0))


def to_judge(cases: Cases, judge: Judge, *, ridge: float = 1.0, steps: int = 100) -> Mapping:
    """Return the affine map under which the source's judge is right about the labelled cases.

    Minimises mean_i cross-entropy(judge(A x_i + b), y_i) + ridge/2 (|A - I|^2 + |b|^2) by L-BFGS
    from the identity; under a linear judge the problem is convex, and the answer the only one.

    Args:
        cases: Features, of as many columns as the judge takes; classes as the judge numbers them.
        judge: The source's last layer, or scores by its prototypes.
        ridge: Strength of the pull to the identity.
        steps: At most so many.
    """
    x = cases.x.double()
    identity = torch.eye(x.shape[1], dtype=torch.float64)
    weight, shift = identity.clone().requires_grad_(), torch.zeros_like(x[0]).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, shift],
        max_iter=steps,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(judge(x @ weight.T + shift), cases.y)
        loss = loss + ridge / 2 * ((weight - identity).square().sum() + shift.square().sum())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return Mapping(weight.detach(), shift.detach())


def mapped(learn: Callable[[Cases], Mapping], judge: Judge) -> Method:
    """Return the source's judge on cases that a map brings to it, as a way to learn from few."""

    def method(cases: Cases, x: Tensor, seed: int) -> Tensor:
        h = learn(cases)
        with torch.no_grad():
            scores = judge(h(x))
        return scores[:, : cases.ways].softmax(1).double()

    return method


def nearest_prototype(prototypes: Tensor) -> Judge:
    """Return minus the distances to a source's released means, (classes, dim)."""
    means = prototypes.double()
    return lambda x: -DISTANCES["euclidean"](x, means)


def _power(matrix: Tensor, power: float, floor: float) -> Tensor:
    """Return a power of a symmetric matrix whose eigenvalues are raised by `floor`."""
    values, vectors = torch.linalg.eigh(matrix.double())
    found: Tensor = (vectors * (values.clamp(min=0) + floor).pow(power)) @ vectors.T
    return found
