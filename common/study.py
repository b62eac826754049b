"""The study as data: one frozen value, checked at the edge, that every rule of a run follows from.

A study names what the installed package knows; nothing in it is executed. Everything but the
`[simulation]` table is a rule that a hospital approves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from common.cohort.schema import CohortSchema as CohortSchema
from common.cohort.schema import Feature as Feature
from common.cohort.schema import Image as Image
from common.cohort.schema import Label as Label
from common.errors import StudyError
from common.scenario import Simulation
from common.schema import Count, Fraction, Name, Positive, Table, explain, read_toml

ModelName = Literal["logistic", "mlp", "conv4", "resnet18"]
Aggregation = Literal["mean", "median", "trimmed_mean", "krum"]


class ModelSpec(Table):
    """The model: its name, its widths, and a local file of initial weights (safetensors)."""

    name: ModelName = "logistic"
    hidden: tuple[Count, ...] = (32,)
    width: Count = 32
    weights: str | None = None


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


LearnerName = Literal["reptile", "fedavg", "fedprox", "fomaml", "maml"]

_META: tuple[LearnerName, ...] = ("fomaml", "maml")


class LearnerSpec(Table):
    """The inner loop: K steps from the shared weights on Poisson samples of a hospital's patients.

    Attributes:
        local_steps: K.
        learning_rate: alpha.
        sampling_rate: q, the probability with which a patient takes part in a step.
        proximal: mu of FedProx, the pull towards the shared weights.
        meta: Support and query, for the learners that have them.
    """

    name: LearnerName = "reptile"
    local_steps: Count = 5
    learning_rate: Positive
    sampling_rate: Fraction = 1.0
    proximal: Annotated[float, Field(ge=0)] = 0.0
    meta: MetaSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _meta_is_written_out(cls, values: Any) -> Any:
        """Let a study leave out defaults that its digest has to cover."""
        if isinstance(values, dict) and values.get("name") in _META and values.get("meta") is None:
            return {**values, "meta": {}}
        return values

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
        kept = {"name": name, "proximal": proximal, "meta": self.meta if name in _META else None}
        return LearnerSpec.model_validate(self.model_dump() | kept)

    @model_validator(mode="after")
    def _proximal_needs_fedprox(self) -> LearnerSpec:
        if (self.name == "fedprox") != (self.proximal > 0):
            raise ValueError(
                f"proximal is {self.proximal} with learner {self.name!r}: "
                "fedprox needs one above 0, the others take none"
            )
        return self


class ServerSpec(Table):
    """The outer step: how the coordinator turns the hospitals' deltas into new shared weights.

    Attributes:
        aggregation: 'mean' by `weights`, or what bears lying hospitals and gives each the same
            weight: 'median' and 'trimmed_mean' (Yin et al. 2018), 'krum' (Blanchard et al. 2017).
        liars: f, how many lying hospitals to bear.
        norm_bound: A delta of a larger L2 norm is scaled down to it (Sun et al. 2019, "Can you
            really backdoor federated learning?").
    """

    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    learning_rate: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    weights: Literal["declared", "equal"] = "declared"
    aggregation: Aggregation = "mean"
    liars: Annotated[int, Field(ge=0, strict=True)] = 0
    norm_bound: Positive | None = None

    @model_validator(mode="after")
    def _trims_something(self) -> ServerSpec:
        if self.aggregation == "trimmed_mean" and self.liars == 0:
            raise ValueError(
                "aggregation is 'trimmed_mean' and liars is 0, so nothing would be trimmed: "
                "give liars, how many lying hospitals to bear"
            )
        return self


def most_liars(aggregation: Aggregation, members: int) -> int:
    """Return how many lying hospitals an aggregation bears; below 0 where it needs more members.

    A mean bears none, whatever bounds its norms. The median and the trimmed mean need an honest
    majority; Krum needs n >= 2 f + 3 (Blanchard et al. 2017, section 4).

    >>> [most_liars(a, 5) for a in ("mean", "median", "trimmed_mean", "krum")]
    [0, 2, 2, 1]
    """
    return _MOST_LIARS[aggregation](members)


_MOST_LIARS: dict[str, Callable[[int], int]] = {
    "mean": lambda members: 0,
    "median": lambda members: (members - 1) // 2,
    "trimmed_mean": lambda members: (members - 1) // 2,
    "krum": lambda members: (members - 3) // 2,
}


class RoundsSpec(Table):
    """How often, with how many hospitals at least, and how long to wait for them.

    Attributes:
        deadline_s: How long one attempt at a round waits for answers.
        retries: How often a round below the quorum asks those who are missing again.
    """

    count: Count
    quorum: Count = 2
    deadline_s: Positive = 600.0
    retries: Annotated[int, Field(ge=0, le=100, strict=True)] = 0


class PrivacySpec(Table):
    """The promise: a target epsilon, which fixes sigma, or sigma, from which epsilon follows."""

    epsilon: Annotated[float, Field(ge=1e-3, le=50, strict=True)] | None = None
    sigma: Annotated[float, Field(ge=0.1, le=1e4, strict=True)] | None = None
    delta: Annotated[float, Field(gt=0, le=0.01, strict=True)]
    clip: Positive = 1.0

    @model_validator(mode="after")
    def _one_of_two(self) -> PrivacySpec:
        if self.epsilon is None and self.sigma is None:
            raise ValueError("it has neither epsilon nor sigma; give one of the two")
        if self.epsilon is not None and self.sigma is not None:
            raise ValueError(
                f"epsilon is {self.epsilon:g} and sigma is {self.sigma:g}; give one of the two"
            )
        return self


class EvaluationSpec(Table):
    """One noisy histogram of scores by outcome from each hospital, at the end, on the holdout.

    Attributes:
        bins: Score bins of equal width on [0, 1]; even, so that .5 is an edge.
        epsilon: What a holdout patient pays; the study's own epsilon where it is left out.
    """

    bins: Annotated[int, Field(ge=2, le=100, multiple_of=2)] = 10
    epsilon: Annotated[float, Field(gt=0, le=50)] | None = None


class AdaptationSpec(Table):
    """Local adaptation at the end, with a quadratic prior; it never leaves the hospital.

    The hospital minimises the sum over its training patients of the cross-entropy plus
    prior/2 |w - theta|^2, theta the shared weights, with `bias_prior` for biases.
    """

    prior: Annotated[float, Field(ge=0)] = 10.0
    bias_prior: Annotated[float, Field(ge=0)] = 1.0
    max_steps: Count = 100


class Study(Table):
    """All rules of a study. Equal rules mean an equal digest; see `common.plan`."""

    name: Name
    title: str = ""
    description: str = ""
    cohort: CohortSchema
    model: ModelSpec = ModelSpec()
    learner: LearnerSpec
    server: ServerSpec = ServerSpec()
    rounds: RoundsSpec
    privacy: PrivacySpec | None = None
    evaluation: EvaluationSpec = EvaluationSpec()
    adaptation: AdaptationSpec = AdaptationSpec()
    simulation: Simulation | None = None

    def rules(self) -> dict[str, Any]:
        """Return everything but the simulation, as plain values: what the digest covers."""
        return self.model_dump(mode="json", exclude={"simulation"})

    def with_epsilon(self, epsilon: float | None) -> Study:
        """Return the study with another target epsilon, or without privacy.

        Raises:
            StudyError: the study has no privacy table to take delta and clip from.
        """
        if epsilon is None:
            return self.model_copy(update={"privacy": None})
        if self.privacy is None:
            raise StudyError(
                f"--epsilon is {epsilon:g}, but study {self.name!r} has no privacy table",
                remedy="add [privacy] with delta and clip to the study",
            )
        privacy = {**self.privacy.model_dump(), "epsilon": epsilon, "sigma": None}
        return parse_study({**self.model_dump(mode="json"), "privacy": privacy}, origin="--epsilon")


def parse_study(values: dict[str, Any], *, origin: str) -> Study:
    """Return the study that plain values describe.

    Raises:
        StudyError: a value is missing, unknown or out of bounds; the message names the first.
    """
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise explain(error, origin) from None


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        StudyError: the file is missing, is not TOML, or is not a study.
    """
    return parse_study(read_toml(path, what="study"), origin=str(path))
