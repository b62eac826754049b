"""Two tables of a study's learner: the space that it learns, and a hospital's patients as tasks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from common.schema import Count, Positive, Table

Distance = Literal["squared_euclidean", "euclidean", "manhattan", "cosine"]
MetricLoss = Literal["prototypical", "matching", "contrastive", "triplet"]


class MetricSpec(Table):
    """The `[learner.metric]` table: a space in which cases of one class lie close together.

    The model's last layer is references of the classes in place of a linear map; they stay at the
    hospital (`common.references`, `common.learners.references`).

    Attributes:
        loss: What draws a case to its own class's references and away from the others'.
        distance: How far apart two places are; squared Euclidean unless the loss says another.
        references: How many references each class has.
        embedding: Dimensions of the space, behind one more linear layer; as many as the body has
            features where it is left out.
        radius: Places further from the origin are drawn in to it. A private study needs one: it
            bounds what one patient adds to a reference.
        temperature: What distances are divided by.
        margin: Of the contrastive and the triplet loss.
        form: Of the contrastive loss: of the distance, or of its square.
        context: Of the matching loss: how many steps a case reads the references for before it is
            compared with them (full context embeddings); 0 for none.
    """

    loss: MetricLoss = "prototypical"
    distance: Distance = "squared_euclidean"
    references: Annotated[int, Field(ge=1, le=100, strict=True)] = 1
    embedding: Count | None = None
    radius: Positive | None = None
    temperature: Positive = 1.0
    margin: Positive = 1.0
    form: Literal["squared", "distance"] = "squared"
    context: Annotated[int, Field(ge=0, le=10, strict=True)] = 0

    @model_validator(mode="before")
    @classmethod
    def _distance_is_the_papers(cls, values: Any) -> Any:
        """Write out the distance that the loss's own paper takes, where a study names none."""
        if not isinstance(values, dict) or "distance" in values:
            return values
        usual = {"matching": "cosine", "contrastive": "euclidean", "triplet": "euclidean"}
        loss = values.get("loss")
        return {**values, "distance": usual[loss]} if loss in usual else values

    @model_validator(mode="after")
    def _context_is_of_matching(self) -> MetricSpec:
        if self.context and self.loss != "matching":
            raise ValueError(
                f"context is {self.context} with loss {self.loss!r}: only matching has it"
            )
        if self.references > 1 and self.loss in ("contrastive", "triplet"):
            raise ValueError(
                f"references is {self.references} with loss {self.loss!r}, which measures one "
                "distance a class: use 1"
            )
        return self


class TaskSpec(Table):
    """The `[learner.task]` table: several problems a round made of one hospital's patients.

    Attributes:
        kind: 'classes': some of the hospital's classes; 'one_against_rest': one class against all
            others; 'pairs': two classes; 'rotations': by how many right angles each picture was
            turned, which needs no labels (Gidaris, Singh and Komodakis 2018).
        ways: Of 'classes': how many, or fewer where the hospital has fewer.
        shots: Cases a class from which a task is learnt. With it a task is an episode of the
            few-shot papers, which has no private form. Without it every patient is in the task.
        queries: Cases a class, others than the shots, on which a metric is judged.
        per_round: How many tasks a round; the delta is the mean over them.
    """

    kind: Literal["classes", "one_against_rest", "pairs", "rotations"] = "classes"
    ways: Annotated[int, Field(ge=2, le=1000, strict=True)] | None = None
    shots: Annotated[int, Field(ge=1, le=1000, strict=True)] | None = None
    queries: Annotated[int, Field(ge=1, le=1000, strict=True)] = 5
    per_round: Annotated[int, Field(ge=1, le=100, strict=True)] = 1

    @model_validator(mode="after")
    def _ways_are_of_classes(self) -> TaskSpec:
        if (self.ways is not None) != (self.kind == "classes"):
            raise ValueError(
                f"ways is {self.ways} and kind is {self.kind!r}: 'classes' needs ways, the others "
                "take none"
            )
        if self.shots is not None and self.kind == "rotations":
            raise ValueError("shots is given and kind is 'rotations', which have no cases a class")
        return self
