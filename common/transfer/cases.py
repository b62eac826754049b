"""A few labelled cases, and what every way of learning from them is: a function of one shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import DataError


@dataclass(frozen=True)
class Cases:
    """K labelled cases of each class of a hospital; they never leave it.

    Attributes:
        x: Pictures, rows, or features of them, (cases, *shape).
        y: Class of each case, (cases,), int64, from 0 to `ways` - 1.
        ways: How many classes the hospital tells apart.

    Raises:
        DataError: a class has no case, or a case no such class.

    >>> Cases(torch.zeros(3, 2), torch.tensor([0, 1, 1]), 2).counts.tolist()
    [1, 2]
    """

    x: Tensor
    y: Tensor
    ways: int

    def __post_init__(self) -> None:
        """Refuse what no classifier can be made of."""
        if self.ways < 2:
            raise DataError(
                f"there is {self.ways} class among the labelled cases, so nothing to tell apart",
                remedy="give labelled cases of at least two classes",
            )
        wrong = self.y[(self.y < 0) | (self.y >= self.ways)]
        if wrong.numel():
            raise DataError(
                f"a labelled case is of class {int(wrong[0])}, and there are {self.ways} classes",
                remedy=f"number the classes from 0 to {self.ways - 1}",
            )
        without = torch.nonzero(self.counts == 0).reshape(-1).tolist()
        if without:
            raise DataError(
                f"class {without[0]} has no labelled case",
                remedy="give at least one labelled case of each class",
            )

    @property
    def counts(self) -> Tensor:
        """How many cases each class has, (ways,)."""
        return torch.bincount(self.y, minlength=self.ways)


Method = Callable[[Cases, Tensor, int], Tensor]
"""(labelled cases, the queries' x, seed) -> probability of each class, (queries, ways), float64.

The queries are judged one by one: what a method says of one does not depend on the others.
"""
