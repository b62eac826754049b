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
from common.effect_spec import LEFT_OUT, NOTHING_LEARNT, EffectSpec, filled
from common.errors import StudyError
from common.learner_spec import LearnerSpec
from common.privacy.refused import NO_PRIVATE_COX, NO_PRIVATE_FORM
from common.scenario import Simulation
from common.schema import Count, Name, Positive, Table, explain, read_toml

ModelName = Literal["logistic", "mlp", "conv4", "resnet18", "backbone"]
Backbone = Literal["resnet18", "resnet34", "resnet50", "densenet121", "efficientnet_b0"]
Aggregation = Literal["mean", "median", "trimmed_mean", "krum"]
Clipping = Literal["norm", "automatic"]
Average = Literal["none", "tail", "ema"]


_OF_SURVIVAL = ("reptile", "fedavg", "fedprox", "fedrep")


class ModelSpec(Table):
    """The model.

    Attributes:
        hidden: Widths of an mlp's hidden layers.
        width: Channels of conv4.
        weights: A file of initial weights (safetensors) beside the study, read where a run starts.
        standardise_weights: Whether convolutions take their weights standardised.
        frozen: 'body' if only the last layer is trained, clipped, noised and sent; the body stays
            as the run's initial weights have it, and comes to a hospital with them.
        backbone: Which of torchvision's networks the body is, with name 'backbone': frozen, its
            weights from a file (`common.transfer.backbone` says how to make one).
        backbone_size: Pixels a side to which it brings pictures first.
        likelihood: Of survival: 'discrete_time', of events in intervals, a patient at a time, or
            Cox's partial likelihood, which has no private form (`common.survival`).
    """

    name: ModelName = "logistic"
    hidden: tuple[Count, ...] = (32,)
    width: Count = 32
    weights: str | None = None
    standardise_weights: Annotated[bool, Field(strict=True)] = False
    frozen: Literal["body"] | None = None
    backbone: Backbone | None = None
    backbone_size: Annotated[int, Field(ge=32, le=1024, strict=True)] = 224
    likelihood: Literal["discrete_time", "cox"] = "discrete_time"

    @model_validator(mode="after")
    def _has_what_it_changes(self) -> ModelSpec:
        if self.standardise_weights and self.name not in ("conv4", "resnet18"):
            raise ValueError(
                f"standardise_weights is true and model {self.name!r} has no convolutions: "
                "leave it out, or use conv4 or resnet18"
            )
        if self.frozen is not None and (self.name == "logistic" or not self._has_body):
            raise ValueError(
                f"frozen is {self.frozen!r} and model {self.name!r} is a head without a body: "
                "leave it out, or use mlp with hidden layers, conv4 or resnet18"
            )
        return self

    @model_validator(mode="after")
    def _backbone_is_frozen_and_from_a_file(self) -> ModelSpec:
        if self.name != "backbone":
            if self.backbone is not None:
                raise ValueError(
                    f"backbone is {self.backbone!r} and name is {self.name!r}: leave it out, or "
                    "use name = 'backbone'"
                )
            return self
        needed = {"backbone": "which one", "weights": "its file", "frozen": "frozen = 'body'"}
        for field, what in needed.items():
            if getattr(self, field) is None:
                raise ValueError(
                    f"name is 'backbone' and {field} is not given: say {what} (a body that others "
                    "trained is kept as it is, and its weights come from a safetensors file)"
                )
        return self

    @property
    def _has_body(self) -> bool:
        return self.name != "mlp" or len(self.hidden) > 0


class ServerSpec(Table):
    """The outer step: how the coordinator turns the hospitals' deltas into new shared weights.

    Attributes:
        aggregation: 'mean' by `weights`, or what bears lying hospitals and gives each the same
            weight: 'median' and 'trimmed_mean' (Yin et al. 2018), 'krum' (Blanchard et al. 2017).
        liars: f, how many lying hospitals to bear.
        norm_bound: A delta of a larger L2 norm is scaled down to it (Sun et al. 2019, "Can you
            really backdoor federated learning?").
        average: The run's model: the last round's weights ('none'), the mean of those after the
            second half of the rounds ('tail', Polyak and Juditsky 1992), or one in which they fade
            ('ema'). Every round starts from the last weights all the same.
        tau: Of 'adam': added to what it divides by (Reddi et al. 2021).
        decay: Whether the step shrinks from round to round, 'linear' to 0 after the last.
        average_decay: Of 'ema': what a round's weights keep of their share in the next.
    """

    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    learning_rate: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Positive = 1e-3
    decay: Literal["none", "linear"] = "none"
    weights: Literal["declared", "equal"] = "declared"
    aggregation: Aggregation = "mean"
    liars: Annotated[int, Field(ge=0, strict=True)] = 0
    norm_bound: Positive | None = None
    average: Average = "none"
    average_decay: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.9

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
        count: How many rounds; 0 in a study of an effect, which trains nothing.
        deadline_s: How long one attempt at a round waits for answers.
        retries: How often a round below the quorum asks those who are missing again.
    """

    count: Annotated[int, Field(ge=0, strict=True)]
    quorum: Count = 2
    deadline_s: Positive = 600.0
    retries: Annotated[int, Field(ge=0, le=100, strict=True)] = 0


class PrivacySpec(Table):
    """The promise: a target epsilon, which fixes sigma, or sigma, from which epsilon follows.

    Attributes:
        clip: C, the most that one patient can add to a sum.
        clipping: How a patient's gradient comes below C: 'norm' shortens the long ones, 'automatic'
            makes all nearly as long as C (`common.privacy.clipping`).
    """

    epsilon: Annotated[float, Field(ge=1e-3, le=50, strict=True)] | None = None
    sigma: Annotated[float, Field(ge=0.1, le=1e4, strict=True)] | None = None
    delta: Annotated[float, Field(gt=0, le=0.01, strict=True)]
    clip: Positive = 1.0
    clipping: Clipping = "norm"

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
    effect: EffectSpec | None = None
    simulation: Simulation | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_an_effect_leaves_out(cls, values: Any) -> Any:
        return filled(values)

    @model_validator(mode="after")
    def _trains_or_is_of_an_effect(self) -> Study:
        """Refuse a study of neither, and tables that one of an effect has no use for."""
        count, fraction = self.rounds.count, self.cohort.train_fraction
        if self.effect is None:
            if count == 0:
                raise ValueError("rounds.count is 0: it should be greater than or equal to 1")
            if fraction == 1:
                raise ValueError(
                    f"cohort.train_fraction is {fraction}: it should be less than 1, or nobody "
                    "would be left to evaluate"
                )
            return self
        for name in LEFT_OUT:
            if getattr(self, name) != _NOTHING[name]:
                raise ValueError(f"[{name}] and [effect] are given: an effect trains nothing")
        if count != 0 or fraction != 1:
            raise ValueError(
                f"rounds.count is {count}, cohort.train_fraction {fraction:g} and effect is given, "
                "which trains nothing and is of all patients: leave both out"
            )
        if self.privacy is not None and (self.privacy.clip, self.privacy.clipping) != (1.0, "norm"):
            raise ValueError("privacy.clip is given, and an effect clips nothing: leave it out")
        objection = self.effect.objection(self.cohort)
        if objection is not None:
            raise ValueError(objection)
        return self

    @model_validator(mode="after")
    def _survival_is_learnt_by_its_learners(self) -> Study:
        """Refuse survival where patients are compared or classes are wanted."""
        is_cox, learner = self.model.likelihood == "cox", self.learner
        if self.cohort.label.event is None:
            if is_cox:
                raise ValueError(
                    "model.likelihood is 'cox', and cohort.label.event is not given: name the "
                    "column that says whether the time ended with the event, or leave it out"
                )
            return self
        if is_cox and self.privacy is not None:
            raise ValueError(
                f"model.likelihood is 'cox' and there is a privacy table: {NO_PRIVATE_COX}: use "
                "'discrete_time', or leave [privacy] out"
            )
        able = _OF_SURVIVAL if is_cox else (*_OF_SURVIVAL, "fomaml", "maml")
        if learner.name not in able or learner.metric is not None or learner.task is not None:
            raise ValueError(
                f"learner.name is {learner.name!r} (with metric or task: these are of classes), "
                f"and label.event of survival with model.likelihood {self.model.likelihood!r} is "
                f"learnt by {', '.join(able)} alone"
            )
        return self

    def rules(self) -> dict[str, Any]:
        """Return everything but the simulation, as plain values: what the digest covers."""
        idle = {"effect"} if self.effect is None else set(LEFT_OUT)
        return self.model_dump(mode="json", exclude={"simulation", *idle})

    def check_trains(self, command: str) -> None:
        """Refuse a study of an effect to a command that is about training.

        Raises:
            StudyError: it trains nothing.
        """
        if self.effect is not None:
            raise StudyError(
                f"study {self.name!r} is of an effect and trains nothing, and {command} is about "
                "training",
                remedy="use sim run, or a study with a learner",
            )

    def check_has_classes(self, command: str) -> None:
        """Refuse a study of survival, or of an effect, to a command that judges classes.

        Raises:
            StudyError: its outcome is a time, or it trains nothing.
        """
        self.check_trains(command)
        if self.cohort.label.event is None:
            return
        raise StudyError(
            f"study {self.name!r} is of survival (cohort.label.event is "
            f"{self.cohort.label.event!r}), and {command} judges classes",
            remedy="use sim run, or a study whose outcome is a class",
        )

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


_NOTHING: dict[str, Table] = {
    "model": ModelSpec(),
    "learner": LearnerSpec.model_validate(NOTHING_LEARNT),
    "server": ServerSpec(),
    "evaluation": EvaluationSpec(),
    "adaptation": AdaptationSpec(),
}


def parse_study(values: dict[str, Any], *, origin: str) -> Study:
    """Return the study that plain values describe.

    Raises:
        StudyError: a value is missing, unknown or out of bounds; the message names the first.
    """
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise explain(error, origin, reasons=NO_PRIVATE_FORM) from None


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        StudyError: the file is missing, is not TOML, or is not a study.
    """
    return parse_study(read_toml(path, what="study"), origin=str(path))
