"""What only a simulation needs, as data: hospitals on one disk, partitions, seeds and arms.

It stands in the study file's `[simulation]` table and outside the study's digest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.cohort.split import SplitKind
from common.schema import Count, Name, Positive, Table

ArmKind = Literal["majority", "local", "pooled", "fedavg", "fedprox", "reptile"]

FEDERATED: tuple[ArmKind, ...] = ("fedavg", "fedprox", "reptile")


class SimulatedSite(Table):
    """A hospital whose patients lie in a file of their own.

    Attributes:
        path: The file, relative to the data folder (`--data`, or GRANDROUNDS_DATA).
        declared: The public, rounded count of all its patients.
    """

    path: Path
    declared: Count


class PartitionSite(Table):
    """A hospital made from a public data set: how many patients, how many of them positive."""

    name: Name
    patients: Count
    positives: Annotated[int, Field(ge=0)]
    declared: Count

    @model_validator(mode="after")
    def _positives_are_patients(self) -> PartitionSite:
        if self.positives > self.patients:
            raise ValueError(
                f"hospital {self.name!r} has {self.positives} positives of {self.patients} patients"
            )
        return self


class Partition(Table):
    """A public data set cut into hospitals; see `simulations.hospitals` for the recipe.

    Attributes:
        source: 'breast_cancer', scikit-learn's copy of the Wisconsin diagnostic data.
        gain: Standard deviation, on the log scale, of an instrument's gain.
        offset: Standard deviation of an instrument's offset, in units of a feature's scale.
        repeat: Range of a hospital's measurement error, in the same units.
    """

    source: Literal["breast_cancer"]
    gain: Annotated[float, Field(ge=0)] = 0.0
    offset: Annotated[float, Field(ge=0)] = 0.0
    repeat: tuple[float, float] = (0.0, 0.0)
    hospitals: tuple[PartitionSite, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _makes_sense(self) -> Partition:
        names = [h.name for h in self.hospitals]
        if len(set(names)) < len(names):
            raise ValueError("simulation.partition.hospitals names a hospital twice")
        if not 0 <= self.repeat[0] <= self.repeat[1]:
            raise ValueError(f"repeat is {list(self.repeat)}; give [low, high], 0 <= low <= high")
        return self


class Arm(Table):
    """One way to learn, compared on the same splits and seeds.

    Attributes:
        kind: What it does.
        private: Whether under the study's privacy table. By default the federated arms are, and
            `local` (nothing leaves) and `pooled` (nothing may be pooled: a yardstick) are not.
        proximal: mu, for fedprox.
    """

    kind: ArmKind
    private: bool | None = None
    proximal: Positive | None = None

    @model_validator(mode="after")
    def _proximal_is_fedprox(self) -> Arm:
        if (self.kind == "fedprox") != (self.proximal is not None):
            raise ValueError(
                f"proximal is {self.proximal} in an arm of kind {self.kind!r}: "
                "fedprox needs one, the others take none"
            )
        return self

    @property
    def follows_privacy(self) -> bool:
        """Whether it runs under the study's privacy table where there is one."""
        return self.kind in FEDERATED if self.private is None else self.private


class Simulation(Table):
    """The `[simulation]` table.

    Attributes:
        seed: First seed; a run of `seeds` uses seed, seed + 1, ...
        split: 'stratified' is for comparing with published tables; epsilon then holds only given
            the split.
        arms: Which arms to compare, by name.
        arm: Arms beyond the standard ones, by name.
        data: The folder that the sites' paths start from, as `--data` or GRANDROUNDS_DATA gave it.
        sites: Hospitals with files of their own.
        partition: Or a public data set cut into hospitals.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    seeds: Count = 1
    split: SplitKind = "keyed"
    arms: tuple[Name, ...] = ("majority", "local", "pooled", "fedavg", "reptile")
    arm: dict[Name, Arm] = Field(default_factory=dict)
    data: Path | None = None
    sites: dict[Name, SimulatedSite] = Field(default_factory=dict)
    partition: Partition | None = None

    @model_validator(mode="after")
    def _complete(self) -> Simulation:
        if bool(self.sites) == (self.partition is not None):
            raise ValueError("give either simulation.sites or simulation.partition, and not both")
        unknown = [a for a in self.arms if a not in self.arm and a not in _STANDARD]
        if unknown:
            known = ", ".join([*_STANDARD, *self.arm])
            raise ValueError(f"arm {unknown[0]!r} is not known; the arms are {known}")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError("simulation.arms names an arm twice")
        return self

    def arm_named(self, name: str) -> Arm:
        """Return the arm of that name: the study's own, or a standard one."""
        return self.arm[name] if name in self.arm else _STANDARD[name]


_STANDARD: dict[str, Arm] = {
    "majority": Arm(kind="majority"),
    "local": Arm(kind="local"),
    "pooled": Arm(kind="pooled"),
    "fedavg": Arm(kind="fedavg"),
    "fedprox": Arm(kind="fedprox", proximal=0.1),
    "reptile": Arm(kind="reptile"),
}
