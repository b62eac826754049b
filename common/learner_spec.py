"""The `[learner]` table of a study, with the tables inside it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from common.alignment_spec import AlignmentSpec
from common.generator_spec import GENERATORS, HypernetworkSpec, MetaNetSpec
from common.metric_spec import MetricLoss, MetricSpec, TaskSpec
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
        rotation: The most degrees, whole ones, by which each copy is turned either way.
    """

    copies: Annotated[int, Field(ge=2, le=64, strict=True)] = 4
    flip: Annotated[bool, Field(strict=True)] = False
    shift: Annotated[int, Field(ge=0, le=1000, strict=True)] = 0
    rotation: Annotated[int, Field(ge=0, le=180, strict=True)] = 0

    @model_validator(mode="after")
    def _alters_something(self) -> AugmentationSpec:
        if not self.flip and self.shift == 0 and self.rotation == 0:
            raise ValueError(
                "flip is false and shift and rotation are 0, so all copies would be the same: "
                "give one of the three"
            )
        return self


LearnerName = Literal[
    "reptile",
    "fedavg",
    "fedprox",
    "fomaml",
    "maml",
    "fedrep",
    "anil",
    "prototypical",
    "matching",
    "siamese",
    "triplet",
    "hypernetwork",
    "metanet",
    "aligned",
]

_META: tuple[LearnerName, ...] = ("fomaml", "maml", "anil", "metanet")
_PLAIN: tuple[LearnerName, ...] = ("reptile", "fedavg", "fedprox", "aligned")
_OWN_HEAD: tuple[LearnerName, ...] = ("fedrep", "anil")
_METRIC: dict[str, MetricLoss] = {
    "prototypical": "prototypical",
    "matching": "matching",
    "siamese": "contrastive",
    "triplet": "triplet",
}
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
        optimizer: Of the steps: 'sgd', or 'adam' without momentum (beta1 = 0), begun anew in every
            round, as Reptile has it. Both look at noisy sums alone.
        metric: The space that is learnt: of the metric learners, and of others that are to learn
            one.
        hypernetwork: What makes each hospital's weights, of the learner of that name.
        metanet: The map to fast weights, likewise.
        alignment: How features are drawn together, of the learner 'aligned'.
        task: The problems that a round makes of a hospital's patients; one, its own, if left out.
    """

    name: LearnerName = "reptile"
    local_steps: Count = 5
    learning_rate: Positive
    sampling_rate: Fraction = 1.0
    proximal: Annotated[float, Field(ge=0)] = 0.0
    meta: MetaSpec | None = None
    head_steps: Count | None = None
    augmentation: AugmentationSpec | None = None
    optimizer: Literal["sgd", "adam"] = "sgd"
    metric: MetricSpec | None = None
    hypernetwork: HypernetworkSpec | None = None
    metanet: MetaNetSpec | None = None
    alignment: AlignmentSpec | None = None
    task: TaskSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults_are_written_out(cls, values: Any) -> Any:
        """Let a study leave out defaults that its digest has to cover."""
        if not isinstance(values, dict):
            return values
        if values.get("name") == "aligned" and values.get("alignment") is None:
            values = {**values, "alignment": {}}
        if values.get("name") in GENERATORS and values.get(values["name"]) is None:
            values = {**values, values["name"]: {}}
        if values.get("name") in _META and values.get("meta") is None:
            return {**values, "meta": {}}
        if values.get("name") == "fedrep" and values.get("head_steps") is None:
            return {**values, "head_steps": _HEAD_STEPS}
        if values.get("name") in _METRIC:
            metric = values.get("metric") or {}
            if isinstance(metric, dict):
                return {**values, "metric": {"loss": _METRIC[values["name"]], **metric}}
        return values

    @model_validator(mode="after")
    def _generator_fits(self) -> LearnerSpec:
        for name in GENERATORS:
            if getattr(self, name) is not None and self.name != name:
                raise ValueError(
                    f"{name} is given with learner {self.name!r}: leave it out, or choose {name}"
                )
        for other in ("metric", "task") if self.name in GENERATORS else ():
            if getattr(self, other) is not None:
                raise ValueError(
                    f"{other} is given with learner {self.name!r}, which learns the study's own "
                    "classes alone: leave it out, or choose reptile, fomaml or maml"
                )
        if self.name == "metanet" and self.optimizer != "sgd":
            raise ValueError(
                f"optimizer is {self.optimizer!r} with learner 'metanet', whose steps are the "
                "learned map's: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _alignment_fits(self) -> LearnerSpec:
        if self.name != "aligned":
            if self.alignment is not None:
                raise ValueError(
                    f"alignment is given with learner {self.name!r}: leave it out, or choose "
                    "aligned"
                )
            return self
        for other in ("metric", "task"):
            if getattr(self, other) is not None:
                raise ValueError(
                    f"{other} is given with learner 'aligned', whose features are those of one "
                    "task under one linear layer: leave it out, or choose another learner"
                )
        return self

    @model_validator(mode="after")
    def _metric_fits(self) -> LearnerSpec:
        own = _METRIC.get(self.name)
        if self.metric is None:
            return self
        if own is not None and self.metric.loss != own:
            raise ValueError(
                f"metric.loss is {self.metric.loss!r} with learner {self.name!r}, whose own is "
                f"{own!r}: leave it out, or choose another learner"
            )
        if self.name in _OWN_HEAD or (self.meta is not None and self.meta.unit == "episode"):
            raise ValueError(
                f"metric is given with learner {self.name!r}"
                f"{'' if self.name in _OWN_HEAD else ' by episode'}, which has no references of "
                "classes: leave it out, or use reptile, fedavg, fomaml or maml by patient"
            )
        return self

    @model_validator(mode="after")
    def _task_fits(self) -> LearnerSpec:
        if self.task is not None and self.name in _OWN_HEAD:
            raise ValueError(
                f"task is given with learner {self.name!r}, whose head is of the hospital's own "
                "classes: leave it out, or choose another learner"
            )
        return self

    @property
    def tasks(self) -> int:
        """How many tasks a round."""
        return 1 if self.task is None else self.task.per_round

    @property
    def is_episodic(self) -> bool:
        """Whether each step is on the papers' episodes (`common.learners.episodes`)."""
        return self.name in _METRIC and self.task is not None and self.task.shots is not None

    @model_validator(mode="after")
    def _adam_is_of_plain_steps(self) -> LearnerSpec:
        if self.optimizer == "adam" and self.name not in (*_METRIC, *_PLAIN):
            raise ValueError(
                f"optimizer is 'adam' with learner {self.name!r}, whose steps are plain gradient "
                "steps: leave it out, or use reptile, fedavg, fedprox or a metric learner"
            )
        return self

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
            "metric": self._metric_for(name),
            "alignment": self.alignment if name == "aligned" else None,
            "task": None if name in (*_OWN_HEAD, *GENERATORS, "aligned") else self.task,
            **{own: getattr(self, own) if name == own else None for own in GENERATORS},
            "optimizer": "sgd" if name == "metanet" else self.optimizer,
        }
        return LearnerSpec.model_validate(self.model_dump() | kept)

    def _metric_for(self, name: str) -> dict[str, Any] | None:
        """Return the space of another learner: its own loss's, or none where it has none."""
        if name in _METRIC:
            kept = (
                {} if self.metric is None else self.metric.model_dump(exclude={"loss", "distance"})
            )
            return {**kept, "loss": _METRIC[name]}
        without = (*_OWN_HEAD, *GENERATORS, "aligned")
        if self.metric is None or self.name in _METRIC or name in without:
            return None
        return self.metric.model_dump()

    @model_validator(mode="after")
    def _proximal_needs_fedprox(self) -> LearnerSpec:
        if (self.name == "fedprox") != (self.proximal > 0):
            raise ValueError(
                f"proximal is {self.proximal} with learner {self.name!r}: "
                "fedprox needs one above 0, the others take none"
            )
        return self
