"""The `[learner.alignment]` table: how hospitals' features are drawn towards one distribution."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.schema import Positive, Table


class AlignmentSpec(Table):
    """The `[learner.alignment]` table, of the learner 'aligned'.

    Attributes:
        kind: What is drawn together: 'mmd', the means (of the features, or of a kernel's), or
            'coral', the covariances.
        weight: lambda: how much the distance counts beside the task's loss.
        radius: R: features are drawn in to this Euclidean norm, which bounds what one patient can
            move of the moments.
        kernel: Of mmd: 'linear', or 'rbf', exp(-|z - z'|^2 / (2 bandwidth^2)), by random features.
        frequencies: Of 'rbf': how many; each gives a cosine and a sine.
        bandwidth: Of 'rbf'.
    """

    kind: Literal["mmd", "coral"] = "coral"
    weight: Positive = 1.0
    radius: Positive = 4.0
    kernel: Literal["linear", "rbf"] = "linear"
    frequencies: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 64
    bandwidth: Positive = 1.0

    @model_validator(mode="after")
    def _kernel_is_of_mmd(self) -> AlignmentSpec:
        if self.kernel != "linear" and self.kind != "mmd":
            raise ValueError(
                f"kernel is {self.kernel!r} and kind is {self.kind!r}, which compares the features "
                "themselves: leave it out, or use kind = 'mmd'"
            )
        return self
