"""The `[learner]` table of a study, with the tables inside it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from common.schema import Count, Fraction, Positive, Table


class MetaSpec(Table):
    """The `[learner.meta]` table: where MAML and its first-order form take support and query from.

    Attributes:
        unit: Whose contribution is clipped: each 'patient' in every query, or each 'episode', a
            fixed group of patients whose whole meta-gradient is one (maml only).
        pool: 'parted': a keyed hash decides, for good, who is in the support and who in the query,
            and the two prices compose in parallel. 'shared': everybody is in both and pays both.
        query_fraction: Share of the training patients in the query, where they are parted.
        curvature_clip: Of maml by patient: the longest that a patient's Hessian may make a
            direction of length 1.
        episodes: Of maml by episode: into how many a hospital's training patients are parted.
    """

    unit: Literal["patient", "episode"] = "patient"
    pool: Literal["parted", "shared"] = "parted"
    query_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    curvature_clip: Positive = 1.0
    episodes: Annotated[int, Field(ge=2, le=10_000, strict=True)] = 10


class AugmentationSpec(Table):
    """The `[learner.augmentation]` table: a record's gradient is the mean over altered copies.

    Attributes:
        copies: How many copies a record has in every step (De et al. 2022, section 3.3).
        flip: Whether each copy is mirrored left to right with probability one half.
        shift: The most pixels by which each copy is moved, up or down and to either side.
    """

    copies: Annotated[int, Field(ge=2, le=64, strict=True)] = 4
    flip: Annotated[bool, Field(strict=True)] = False
    shift: Annotated[int, Field(ge=0, le=1000, strict=True)] = 0

    @model_validator(mode="after")
    def _alters_something(self) -> AugmentationSpec:
        if not self.flip and self.shift == 0:
            raise ValueError(
                "flip is false and shift is 0, so all copies would be the same: give one of the two"
            )
        return self


LearnerName = Literal["reptile", "fedavg", "fedprox", "fomaml", "maml", "fedrep", "anil"]

_META: tuple[LearnerName, ...] = ("fomaml", "maml", "anil")
_HEAD_STEPS = 5  # of fedrep, where a study does not say


class LearnerSpec(Table):
    """The inner loop: K steps from the shared weights on Poisson samples of a hospital's patients.

    Attributes:
        local_steps: K.
        learning_rate: alpha.
        sampling_rate: q, the probability with which a patient takes part in a step.
        proximal: mu of FedProx, the pull towards the shared weights.
        meta: Support and query, for the learners that have them.
        head_steps: H of fedrep: steps of the head before those of the body.
        augmentation: Altered copies of every record, of images.
    """

    name: LearnerName = "reptile"
    local_steps: Count = 5
    learning_rate: Positive
    sampling_rate: Fraction = 1.0
    proximal: Annotated[float, Field(ge=0)] = 0.0
    meta: MetaSpec | None = None
    head_steps: Count | None = None
    augmentation: AugmentationSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults_are_written_out(cls, values: Any) -> Any:
        """Let a study leave out defaults that its digest has to cover."""
        if not isinstance(values, dict):
            return values
        if values.get("name") in _META and values.get("meta") is None:
            return {**values, "meta": {}}
        if values.get("name") == "fedrep" and values.get("head_steps") is None:
            return {**values, "head_steps": _HEAD_STEPS}
        return values

    @model_validator(mode="after")
    def _head_steps_are_fedreps(self) -> LearnerSpec:
        if self.head_steps is not None and self.name != "fedrep":
            raise ValueError(
                f"head_steps is {self.head_steps} with learner {self.name!r}: only fedrep has them"
            )
        return self

    @model_validator(mode="after")
    def _meta_needs_its_learners(self) -> LearnerSpec:
        if self.meta is not None and self.name not in _META:
            raise ValueError(
                f"meta is given, and learner {self.name!r} has no query: "
                f"leave it out, or choose one of {', '.join(_META)}"
            )
        if self.meta is not None and self.meta.unit == "episode":
            if self.name != "maml":
                raise ValueError(
                    f"meta.unit is 'episode', which {self.name} does not have: use maml"
                )
            if self.sampling_rate != 1:
                raise ValueError(
                    f"sampling_rate is {self.sampling_rate:g} and meta.unit is 'episode': every "
                    "episode takes part in every round, because sampled episodes that are "
                    "exchanged have no proven price; use 1"
                )
            if self.augmentation is not None:
                raise ValueError(
                    "augmentation is given and meta.unit is 'episode', whose gradients are of "
                    "whole episodes: leave it out, or use meta.unit = 'patient'"
                )
        return self

    @property
    def has_query(self) -> bool:
        """Whether a round ends with a noisy gradient of its own on query patients."""
        return self.meta is not None and self.meta.unit == "patient"

    @property
    def is_parted(self) -> bool:
        """Whether support and query are different patients."""
        return self.has_query and self.meta is not None and self.meta.pool == "parted"

    def named(self, name: str, *, proximal: float = 0.0) -> LearnerSpec:
        """Return another learner with the same steps; what it has no use for is left out."""
        kept = {
            "name": name,
            "proximal": proximal,
            "meta": self.meta if name in _META else None,
            "head_steps": self.head_steps if name == "fedrep" else None,
        }
        return LearnerSpec.model_validate(self.model_dump() | kept)

    @model_validator(mode="after")
    def _proximal_needs_fedprox(self) -> LearnerSpec:
        if (self.name == "fedprox") != (self.proximal > 0):
            raise ValueError(
                f"proximal is {self.proximal} with learner {self.name!r}: "
                "fedprox needs one above 0, the others take none"
            )
        return self
