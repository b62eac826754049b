"""What only a simulation needs, as data: hospitals on one disk, partitions, seeds and arms.

It stands in the study file's `[simulation]` table and outside the study's digest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from common.cohort.split import SplitKind
from common.few_shot_spec import UNTRAINED, FewShot
from common.learner_spec import LearnerName
from common.partition_spec import BreastCancer, Partition
from common.schema import Count, Name, Positive, Table

Share = Annotated[float, Field(ge=0, le=1)]
ArmKind = Literal["majority", "local", "pooled", LearnerName]

FEDERATED: tuple[ArmKind, ...] = get_args(LearnerName)


class SimulatedSite(Table):
    """A hospital whose patients lie in a file of their own.

    Attributes:
        path: The file, relative to the data folder (`--data`, or GRANDROUNDS_DATA).
        declared: The public, rounded count of all its patients.
        classes: Its own classes, for a study with `label.own`, as its label's column has them.
    """

    path: Path
    declared: Count
    classes: tuple[str, ...] = ()


class LeaveOneOut(Table):
    """How `sim loho` tests a hospital that took no part.

    Attributes:
        shots: Numbers of its labelled patients; 0 takes the shared model as it is.
        draws: How many draws of labelled patients for each number above 0.
        weak_prior: Strength of the prior of `local_weak`, a model of the labelled patients alone.
        strong_prior: The same for `local_strong`.
        prior: Strength of the prior around the shared weights, for the adapted arms.
        arms: Which federated arms to train without the hospital; the first is the main one.
    """

    shots: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 16, 32)
    draws: Count = 30
    weak_prior: Positive = 3.0
    strong_prior: Positive = 10.0
    prior: Positive = 10.0
    arms: Annotated[tuple[Name, ...], Field(min_length=1)] = ("reptile", "fedavg")


class PublishedRow(Table):
    """One row of a published table: what was done, and the figures that were printed.

    Attributes:
        method: What was done.
        epsilon: In words, where the method is private.
        mean_auc: Over hospitals, each counting the same; so `mean_accuracy`.
        weighted_accuracy: Over all test patients of all hospitals.
        mean_c_index: Of survival, as mean_auc.
        pooled_c_index: Of survival, over the patients of all hospitals as if of one.
    """

    method: str
    epsilon: str = ""
    mean_auc: Share | None = None
    mean_accuracy: Share | None = None
    weighted_accuracy: Share | None = None
    mean_c_index: Share | None = None
    pooled_c_index: Share | None = None


class Published(Table):
    """Figures that others printed for the same hospitals, to stand beside a run's own.

    Attributes:
        source: Who printed them, and where.
        note: What a reader must know before comparing.
    """

    source: str
    note: str = ""
    rows: tuple[PublishedRow, ...] = Field(min_length=1)


class Arm(Table):
    """One way to learn, compared on the same splits and seeds.

    Attributes:
        kind: What it does.
        private: Whether under the study's privacy table. By default the federated arms are, and
            `local` (nothing leaves) and `pooled` (nothing may be pooled: a yardstick) are not.
        proximal: mu, for fedprox.
        rules: Tables of the study that differ in this arm (learner, server, rounds, privacy), with
            the values that do.
        note: What the report says of it, beside its kind.
    """

    kind: ArmKind
    private: bool | None = None
    proximal: Positive | None = None
    rules: dict[Literal["model", "learner", "server", "rounds", "privacy"], dict[str, Any]] = Field(
        default_factory=dict
    )
    note: str = ""

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
        split: 'stratified', and 'given' by the files' column 'part', are for comparing with
            published tables; epsilon then holds only given the split.
        arms: Which arms to compare, by name.
        arm: Arms beyond the standard ones, by name.
        loho: For `sim loho`.
        fewshot: For `sim fewshot`, and for hospitals that are new to `sim run`.
        published: Figures of others for the same hospitals; `sim run` shows them beside its own.
        engine: What carries the messages, as `--engine` said it.
        command: Of `grandrounds sim`, by which a run folder was begun: only that one goes on in it.
        data: The folder that the sites' paths start from, as `--data` or GRANDROUNDS_DATA gave it.
        sites: Hospitals with files of their own.
        partition: Or a public data set cut into hospitals.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    seeds: Count = 1
    split: SplitKind = "keyed"
    arms: Annotated[tuple[Name, ...], Field(min_length=1)] = (
        "majority",
        "local",
        "pooled",
        "fedavg",
        "reptile",
    )
    arm: dict[Name, Arm] = Field(default_factory=dict)
    loho: LeaveOneOut = LeaveOneOut()
    fewshot: FewShot = FewShot()
    published: Published | None = None
    engine: Literal["inprocess", "flower"] = "inprocess"
    command: Literal["run", "loho", "fewshot"] | None = None
    data: Path | None = None
    sites: dict[Name, SimulatedSite] = Field(default_factory=dict)
    partition: Partition | None = None

    @model_validator(mode="after")
    def _complete(self) -> Simulation:
        if bool(self.sites) == (self.partition is not None):
            raise ValueError("give either simulation.sites or simulation.partition, and not both")
        named = (*self.arms, *self.loho.arms, *self.fewshot.named_arms)
        unknown = [a for a in named if a not in self.arm and a not in _STANDARD]
        if unknown:
            known = ", ".join([*_STANDARD, *self.arm])
            raise ValueError(f"arm {unknown[0]!r} is not known; the arms are {known}")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError("simulation.arms names an arm twice")
        alone = [a for a in self.loho.arms if self.arm_named(a).kind not in FEDERATED]
        if alone or len(set(self.loho.arms)) < len(self.loho.arms):
            raise ValueError(
                f"simulation.loho.arms is {list(self.loho.arms)}: name each federated arm once "
                f"(of the kinds {', '.join(FEDERATED)}); the others take part anyway"
            )
        if UNTRAINED in self.arm:
            raise ValueError(f"an arm is named {UNTRAINED!r}, which means that there is none")
        alone = [a for a in self.fewshot.named_arms if self.arm_named(a).kind not in FEDERATED]
        if alone:
            raise ValueError(
                f"simulation.fewshot uses the body of arm {alone[0]!r}, which is not "
                f"federated: name one of the kinds {', '.join(FEDERATED)}, or {UNTRAINED!r}"
            )
        return self

    @property
    def needs_data(self) -> bool:
        """Whether the hospitals' patients come from a data folder."""
        return not isinstance(self.partition, BreastCancer)

    @property
    def count(self) -> int:
        """How many hospitals there are, those too small included."""
        if self.partition is None:
            return len(self.sites)
        hospitals = self.partition.hospitals
        return hospitals if isinstance(hospitals, int) else len(hospitals)

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
    "fomaml": Arm(kind="fomaml"),
    "maml": Arm(kind="maml"),
    "fedrep": Arm(kind="fedrep"),
    "anil": Arm(kind="anil"),
    "prototypical": Arm(kind="prototypical"),
    "matching": Arm(kind="matching"),
    "siamese": Arm(kind="siamese"),
    "triplet": Arm(kind="triplet"),
    "hypernetwork": Arm(kind="hypernetwork"),
    "metanet": Arm(kind="metanet"),
    "aligned": Arm(kind="aligned"),
}
