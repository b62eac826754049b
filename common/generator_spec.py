"""The tables of the learners that generate weights: hypernetwork and metanet."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.schema import Count, Positive, Table


class HypernetworkSpec(Table):
    """The `[learner.hypernetwork]` table: what makes each hospital's weights from its embedding.

    Attributes:
        embedding: Numbers that stand for a hospital.
        hidden: Widths of the hypernetwork's hidden layers.
        rate: How fast what is a hospital's own moves beside what is common; towards 0 every
            hospital has the same weights, and the learner is Reptile.
    """

    embedding: Annotated[int, Field(ge=1, le=1024, strict=True)] = 8
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (32,)
    rate: Positive = 1.0


class MetaNetSpec(Table):
    """The `[learner.metanet]` table: the map from a released gradient to fast weights.

    Attributes:
        hidden: Width of the network that all weights share; 0 leaves a learned rate for each
            tensor alone.
        rate: How fast the map is learnt beside the weights.
    """

    hidden: Annotated[int, Field(ge=0, le=1024, strict=True)] = 8
    rate: Positive = 1.0


GENERATORS = ("hypernetwork", "metanet")
"""The learners that have such a table, by their names."""

MOST_HELD = 2**26
"""Values that such a learner may hold of its own beside a model: 268 MB of float32."""
