"""The study as data: one frozen value, checked at the edge, that every rule of a run follows from.

A study names what the installed package knows; nothing in it is executed. Everything but the
`[simulation]` table is a rule that a hospital approves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from common.errors import StudyError
from common.scenario import Simulation
from common.schema import Count, Fraction, Name, Positive, Table, explain, read_toml


class Feature(Table):
    """One column of a table and how it becomes inputs, from declared constants alone.

    A number is clamped to `range` and mapped to (x - center) / scale; by default the range maps to
    [-1, 1]. A category becomes one input for each listed value. What is missing takes `default` (a
    category: no value); `indicator` adds an input that is 1 where it was missing. The kind
    'missing' is that indicator alone: whether a test was done can say more than its result.
    """

    name: str
    column: str | None = None
    kind: Literal["number", "category", "missing"] = "number"
    range: tuple[float, float] | None = None
    center: float | None = None
    scale: Positive | None = None
    default: float | str | None = None
    categories: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    indicator: bool = False

    @property
    def source(self) -> str:
        """Name of the column it is read from."""
        return self.column or self.name

    @property
    def width(self) -> int:
        """How many inputs it becomes."""
        return (len(self.categories) if self.kind == "category" else 1) + int(self.indicator)

    @field_validator("default", mode="before")
    @classmethod
    def _scalar(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, float | int | str | None):
            raise ValueError(f"{value!r} is neither a number nor a text")
        return value

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Feature:
        if self.kind == "number":
            if self.range is None or not self.range[0] < self.range[1]:
                given = "no range" if self.range is None else f"range = {list(self.range)}"
                raise ValueError(
                    f"feature {self.name!r} is a number with {given}; "
                    "it needs range = [low, high], low < high"
                )
            if self.categories:
                raise ValueError(f"feature {self.name!r} is a number and takes no categories")
            if isinstance(self.default, str):
                raise ValueError(f"feature {self.name!r}: default {self.default!r} is not a number")
            if self.default is not None and not self.range[0] <= self.default <= self.range[1]:
                raise ValueError(
                    f"feature {self.name!r}: default {self.default:g} is out of its range "
                    f"[{self.range[0]:g}, {self.range[1]:g}]"
                )
        elif self.range is not None:
            raise ValueError(f"feature {self.name!r} is no number and takes no range")
        elif bool(self.categories) != (self.kind == "category"):
            raise ValueError(f"feature {self.name!r}: a category, and nothing else, has categories")
        elif self.kind == "missing" and self.indicator:
            raise ValueError(f"feature {self.name!r} is itself an indicator and takes no other")
        return self


class Label(Table):
    """The outcome: its column, its classes in order, and how the column's values map to them.

    With two classes the second is the positive one.
    """

    column: str = "label"
    classes: tuple[str, ...] = Field(min_length=2)
    map: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _maps_to_classes(self) -> Label:
        unknown = sorted(set(self.map.values()) - set(self.classes))
        if unknown:
            raise ValueError(f"label.map leads to {unknown[0]!r}, which is not in label.classes")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("label.classes names a class twice")
        return self


class Image(Table):
    """What every image is: square, of `size` pixels, values 0 to 255 mapped to [-1, 1]."""

    size: Annotated[int, Field(ge=8, le=1024)]
    channels: Literal[1, 3] = 1


class CohortSchema(Table):
    """What the study expects of every hospital's cohort.

    Attributes:
        patient: Column of the patient's id; without one each record is a patient, known
            by its content, so that one more or less changes nobody else's id.
        max_records: k, the most records of one patient that a step uses.
        train_fraction: Share of patients that learning may touch; the others evaluate.
        min_declared: A hospital that declares fewer patients is left out.
        columns: Names of the columns of a file that has no header line.
        missing: Values that mean 'missing' in every column.
    """

    patient: str | None = None
    max_records: Count = 1
    train_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.7
    min_declared: Count = 20
    columns: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("", "NA", "?")
    label: Label
    features: tuple[Feature, ...] = ()
    image: Image | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record: (features,) or (channels, size, size)."""
        if self.image is not None:
            return (self.image.channels, self.image.size, self.image.size)
        return (sum(f.width for f in self.features),)

    @model_validator(mode="after")
    def _table_or_images(self) -> CohortSchema:
        if bool(self.features) == (self.image is not None):
            raise ValueError("give either cohort.features (a table) or cohort.image, and not both")
        names = [f.name for f in self.features]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"feature {twice[0]!r} stands twice")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("cohort.columns names a column twice")
        return self


class ModelSpec(Table):
    """The model: its name, its widths, and a local file of initial weights (safetensors)."""

    name: Literal["logistic", "mlp", "conv4", "resnet18"] = "logistic"
    hidden: tuple[Count, ...] = (32,)
    width: Count = 32
    weights: str | None = None


class LearnerSpec(Table):
    """The inner loop: K steps from the shared weights on Poisson samples of a hospital's patients.

    Attributes:
        local_steps: K.
        learning_rate: alpha.
        sampling_rate: q, the probability with which a patient takes part in a step.
        proximal: mu of FedProx, the pull towards the shared weights.
    """

    name: Literal["reptile", "fedavg", "fedprox"] = "reptile"
    local_steps: Count = 5
    learning_rate: Positive
    sampling_rate: Fraction = 1.0
    proximal: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _proximal_needs_fedprox(self) -> LearnerSpec:
        if (self.name == "fedprox") != (self.proximal > 0):
            raise ValueError(
                f"proximal is {self.proximal} with learner {self.name!r}: "
                "fedprox needs one above 0, the others take none"
            )
        return self


class ServerSpec(Table):
    """The outer step: how the coordinator turns the hospitals' deltas into new shared weights."""

    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    learning_rate: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    weights: Literal["declared", "equal"] = "declared"


class RoundsSpec(Table):
    """How often, with how many hospitals at least, and how long to wait for them."""

    count: Count
    quorum: Count = 2
    deadline_s: Positive = 600.0


class PrivacySpec(Table):
    """The promise: a target epsilon, which fixes sigma, or sigma, from which epsilon follows."""

    epsilon: Annotated[float, Field(gt=0, le=50, strict=True)] | None = None
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
