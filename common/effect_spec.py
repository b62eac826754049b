"""The `[effect]` table of a study that trains nothing: each hospital releases one table.

Such a study is not a model's evaluation with a table beside it: nothing has to be trained before a
trial's centres can say what a treatment did, and what is not computed need not be paid for. So it
has no model, learner, server, evaluation or adaptation, no rounds, and no holdout: every patient is
in the one release, whose price is the study's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from common.cohort.schema import CohortSchema, Feature
from common.schema import Table

EffectMeasure = Literal["OR", "RR", "RD", "MD"]

LEFT_OUT = ("model", "learner", "server", "evaluation", "adaptation")
"""Tables of a study that one of an effect does without."""

NOTHING_LEARNT: dict[str, Any] = {"name": "fedavg", "local_steps": 1, "learning_rate": 1.0}
"""Stands where a learner would be; nothing reads it."""


class EffectSpec(Table):
    """What of a treatment each hospital releases.

    Attributes:
        kind: 'table', patients by treatment and outcome; or 'mean', of each arm its patients and
            the sums of a bounded number and of its square.
        treatment: Of 'table': the feature, a category, that says who was treated. The outcome is
            the label, its second class the event.
        treated: The category of those who were.
        control: The category of those they are compared with; whoever has neither counts nowhere.
        outcome: Of 'mean': the feature, a number, that is compared; its range bounds it. The arms
            are the label's two classes, the second the treated.
        measure: What is pooled: of 'table' the odds ratio (OR), risk ratio (RR) or risk difference
            (RD), of 'mean' the mean difference (MD). All of a table's come from the same release.
    """

    kind: Literal["table", "mean"] = "table"
    treatment: str | None = None
    treated: str | None = None
    control: str | None = None
    outcome: str | None = None
    measure: EffectMeasure

    @model_validator(mode="before")
    @classmethod
    def _measure_of_its_kind(cls, values: Any) -> Any:
        """Let a study leave out the measure, which its digest has to cover."""
        if isinstance(values, dict) and values.get("measure") is None:
            return {**values, "measure": "MD" if values.get("kind") == "mean" else "OR"}
        return values

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> EffectSpec:
        arms = {"treatment": self.treatment, "treated": self.treated, "control": self.control}
        needed, idle = (arms, {"outcome": self.outcome})
        if self.kind == "mean":
            needed, idle = idle, arms
        for field, value in needed.items():
            if value is None:
                raise ValueError(f"kind is {self.kind!r} and {field} is not given: name it")
        for field, value in idle.items():
            if value is not None:
                raise ValueError(f"kind is {self.kind!r}, which has no {field}: leave it out")
        if self.kind == "table" and self.treated == self.control:
            raise ValueError(f"treated and control are both {self.treated!r}: name two categories")
        if (self.kind == "mean") != (self.measure == "MD"):
            fitting = "MD" if self.kind == "mean" else "OR, RR or RD"
            raise ValueError(
                f"measure is {self.measure!r} and kind is {self.kind!r}: give {fitting}"
            )
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the release: one table, two arms, (no event, event) or (n, sum, of squares)."""
        return (1, 2, 2 if self.kind == "table" else 3)

    @property
    def sensitivity(self) -> float:
        """The most that one patient changes the table, in L2 norm (`common.effect_table`).

        >>> EffectSpec(kind="table", treatment="rx", treated="1", control="0").sensitivity
        1.0
        """
        return 1.0 if self.kind == "table" else math.sqrt(3)

    def objection(self, cohort: CohortSchema) -> str | None:
        """Return why a cohort's schema cannot give the table, or None."""
        label, features = cohort.label, {f.name: f for f in cohort.features}
        if label.event is not None or label.own or len(label.classes) != 2:
            what = "the outcome" if self.kind == "table" else "the two arms"
            return f"the label is {what} of effect: give cohort.label two classes, none its own"
        if not cohort.complete_cases:
            return "cohort.complete_cases is false: a missing value would count as its default"
        field = "treatment" if self.kind == "table" else "outcome"
        name = str(getattr(self, field))
        if name not in features:
            known = ", ".join(features) or "none"
            return f"effect.{field} is {name!r}, no feature of cohort.features ({known})"
        return self._objection_to(features[name])

    def _objection_to(self, feature: Feature) -> str | None:
        if self.kind == "mean":
            if feature.kind != "number":
                return f"effect.outcome is {feature.name!r}, which is no number"
            return None
        for field, value in (("treated", self.treated), ("control", self.control)):
            if value not in feature.categories:
                known = ", ".join(feature.categories) or "none"
                return f"effect.{field} is {value!r}, no category of {feature.name!r} ({known})"
        return None


def filled(values: Any) -> Any:
    """Return a study's plain values with what one of an effect may leave out.

    >>> filled({"effect": {}})["rounds"]
    {'count': 0}
    """
    if not isinstance(values, Mapping) or values.get("effect") is None:
        return values
    changed = {**values, "learner": values.get("learner") or NOTHING_LEARNT}
    for name, own in (("cohort", {"train_fraction": 1.0, "complete_cases": True}),
                      ("rounds", {"count": 0})):  # fmt: skip
        given = values.get(name, {})
        if isinstance(given, Mapping):
            changed[name] = {**own, **given}
    return changed
