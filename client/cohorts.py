"""cohort.toml: where a hospital's patients are, and what is said about them in public."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from common.cohort.read import CohortSource
from common.cohort.split import SplitKind
from common.schema import Declared, Name, Table, dump_toml

MAIN = "main"
"""The name of the cohort at the top of cohort.toml."""


class OtherCohort(Table):
    """A table [cohorts.NAME] of cohort.toml: patients of the same site in another file.

    Attributes:
        path: As that of the main cohort.
        declared: Likewise.
        classes: Likewise.
        disjoint: Whether the hospital vouches that none of its patients is, was or will be in
            another cohort: what they spend is then counted apart (see `client.desk.cohorts`).
    """

    path: Path
    declared: Declared
    classes: tuple[str, ...] = ()
    disjoint: Annotated[bool, Field(strict=True)] = False


class CohortConfig(Table):
    """cohort.toml: where the patients are, and what is said about them in public.

    Attributes:
        path: The data, absolute or relative to the site's folder.
        declared: Count of all patients as the site publishes it: rounded, chosen once.
        split_key: Secret key of the train/holdout split, in hex; one for the site's whole life.
        split: 'stratified', or 'given' by the file's column 'part', only in research: epsilon then
            holds only given the split.
        classes: The hospital's own classes, as its label's column has them, in order; for studies
            that leave them to it.
        cohorts: Others beside the main one, by name; split key, split and device are theirs too.
    """

    name: Name
    path: Path
    declared: Declared
    split_key: str = Field(pattern=r"^([0-9a-f]{2}){16,64}$")
    split: SplitKind = "keyed"
    device: str = "auto"
    classes: tuple[str, ...] = ()
    cohorts: dict[Name, OtherCohort] = Field(default_factory=dict)

    @field_validator("cohorts")
    @classmethod
    def _not_main(cls, value: dict[str, OtherCohort]) -> dict[str, OtherCohort]:
        if MAIN in value:
            raise ValueError(f"{MAIN!r} is the cohort at the top of the file; use another name")
        return value

    def to_toml(self) -> str:
        """Return the file's text; without further cohorts it has no table for them."""
        left_out = {name for name in ("cohorts", "classes") if not getattr(self, name)}
        return dump_toml(self.model_dump(mode="json", exclude=left_out))

    def source(self, folder: Path) -> CohortSource:
        """Return what the cohort reader needs, for the site's folder."""
        return CohortSource(
            name=self.name,
            path=folder / self.path,
            declared=self.declared,
            split_key=bytes.fromhex(self.split_key),
            split=self.split,
            classes=self.classes,
        )
