"""A model that keeps what it answered, or answers by a script."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from common.cohort.parts import Part
from common.params import Params
from common.privacy import moments
from common.privacy.class_sums import sensitivity
from common.privacy.engine import PrivateModel, RecordLoss
from common.privacy.noise import Floats
from simulations.audit.sources import Coupled


@dataclass(frozen=True)
class Answer:
    """What a model would answer, the clip it was asked for, and where.

    Attributes:
        total: Its own answer.
        clip: As asked.
        at: The weights of a sum, the direction of a product.
        batch: Whom it is about.
        is_product: Whether it is a sum of Hessian-vector products.
        is_moments: Whether it is where everybody's features lie; its clip is then the most that one
            patient can add.
    """

    total: Params
    clip: float
    at: Params
    batch: Part
    is_product: bool = False
    is_moments: bool = False


class Scripted:
    """A model that keeps its answers, and gives others if it has a script.

    Args:
        model: The audited engine's.
        script: What to answer in place of its own; None for its own answers.
    """

    def __init__(self, model: PrivateModel, script: list[Answer] | None = None) -> None:
        self.answers: list[Answer] = []
        self._model, self._script = model, script

    def __getattr__(self, name: str) -> Any:
        """Return what is not asked of patients."""
        return getattr(self._model, name)

    def clipped_sum(self, params: Params, batch: Part, *, clip: float, **more: Any) -> Params:
        """Return the clipped sum, or the script's."""
        total = self._model.clipped_sum(params, batch, clip=clip, **more)
        return self._answer(Answer(total, clip, params, batch))

    def clipped_products(
        self, params: Params, batch: Part, *, direction: Params, clip: float, **more: Any
    ) -> Params:
        """Return the clipped products, or the script's."""
        total = self._model.clipped_products(params, batch, direction=direction, clip=clip, **more)
        return self._answer(Answer(total, clip, direction, batch, is_product=True))

    def clipped_sum_of(
        self, loss: RecordLoss, at: Params, batch: Part, *, clip: float, **more: Any
    ) -> Params:
        """Return the clipped sum of a learner's own loss, or the script's."""
        total = self._model.clipped_sum_of(loss, at, batch, clip=clip, **more)
        return self._answer(Answer(total, clip, at, batch))

    def class_sums(
        self, params: Params, batch: Part, *, radius: float | None, **more: Any
    ) -> Params:
        """Return where the classes lie, or as the script has it."""
        total = self._model.class_sums(params, batch, radius=radius, **more)
        bound = math.inf if radius is None else sensitivity(radius)
        return self._answer(Answer(total, bound, params, batch))

    def moment_sums(
        self, params: Params, part: Part, *, radius: float, second: bool, **more: Any
    ) -> Params:
        """Return the sums of moments, or the script's."""
        total = self._model.moment_sums(params, part, radius=radius, second=second, **more)
        most = moments.sensitivity(radius, second=second)
        return self._answer(Answer(total, most, params, part, is_moments=True))

    def _answer(self, answer: Answer) -> Params:
        self.answers.append(answer)
        return answer.total if self._script is None else self._script[len(self.answers) - 1].total


class Kept(Coupled):
    """Equal randomness that keeps its normals."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.drawn: list[Floats] = []

    def normal(self, n: int) -> Floats:
        """Return n normals, (n,)."""
        self.drawn.append(super().normal(n))
        return self.drawn[-1].copy()
