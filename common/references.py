"""The last layer of a learned space: a class is where its references are.

Prototypical networks (Snell, Swersky and Zemel 2017) compare a case with the mean of each class;
Matching networks (Vinyals et al. 2016) with every labelled case; Siamese networks (Hadsell, Chopra
and LeCun 2006) and triplets (Schroff, Kalenichenko and Philbin 2015) with cases of the same and of
other classes. All of them here compare with references: places in the space that stand for a class,
one or several. How they come about is `common.learners.references`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.metric_spec import MetricSpec

ABSENT = -1e4
"""What is added to the score of a class that a hospital does not have."""

_ROOT = 1e-12  # under a root, whose slope at 0 is infinite


def _squared_euclidean(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b[None]).square().sum(-1)


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    return (_squared_euclidean(a, b) + _ROOT).sqrt()


def _manhattan(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b[None]).abs().sum(-1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return 1 - F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared_euclidean": _squared_euclidean,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
    "cosine": _cosine,
}
"""Name -> (places (n, dim), places (m, dim)) -> distances (n, m)."""


def within(z: Tensor, radius: float | None) -> Tensor:
    """Return places, (n, dim), those further than the radius from the origin drawn in to it.

    >>> within(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 1.0)
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    if radius is None:
        return z
    length = (z.square().sum(-1, keepdim=True) + _ROOT).sqrt()
    return z * (radius / length).clamp(max=1.0)


class References(nn.Module):
    """Scores of a place: log sum over a class's references of exp(-distance / temperature).

    With one reference a class that is minus the distance, and the softmax of all scores is the
    Prototypical networks' equation 2. With several, a class's softmax is the sum of the attention
    on its own references, over their number: the Matching networks' equation 1 where classes have
    equally many.

    Args:
        dim: Of the space.
        classes: How many.
        spec: References a class, distance, radius, temperature.

    Attributes:
        weight: The references, (classes, references, dim); not trained.
        bias: Added to each class's score, (classes,): 0, or `ABSENT`; not trained.
    """

    def __init__(self, dim: int, classes: int, spec: MetricSpec) -> None:
        super().__init__()
        self.spec = spec
        zeros = torch.zeros(classes, spec.references, dim)
        self.weight = nn.Parameter(zeros, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(classes), requires_grad=False)

    def place(self, z: Tensor) -> Tensor:
        """Return where features, (records, dim), lie in the space."""
        return within(z, self.spec.radius)

    def forward(self, z: Tensor) -> Tensor:
        """Return the scores, (records, classes), of features (records, dim)."""
        return self.scores(self.place(z), self.weight, self.bias)

    def scores(self, place: Tensor, references: Tensor, bias: Tensor) -> Tensor:
        """Return the scores of places for references that are given."""
        classes, many, dim = references.shape
        flat = references.reshape(classes * many, dim)
        far = DISTANCES[self.spec.distance](place, flat) / self.spec.temperature
        far = far.reshape(-1, classes, many)
        close = -far[..., 0] if many == 1 else (-far).logsumexp(-1)
        return close + bias
