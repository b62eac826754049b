"""The `[simulation.fewshot]` table: hospitals that are new, with a few labelled cases each."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from common.schema import Count, Name, Positive, Table

UNTRAINED = "untrained"
"""In an arm's place: the body of random weights that training starts from."""

Use = Literal[
    "prototype",
    "nearest",
    "logistic",
    "svm",
    "fine_tune",
    "gradual",
    "adapt",
    "prior",
]
Baseline = Literal[
    "scratch",
    "logistic_pixels",
    "logistic_hog",
    "nearest_pixels",
    "logistic_inputs",
    "nearest_inputs",
]
USES: tuple[Use, ...] = get_args(Use)
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
Beside = Literal["hog", "pixels", "coarse", "levels"]
OF_WEIGHTS: tuple[Use, ...] = ("fine_tune", "gradual", "adapt", "prior")
"""Uses that move the body's own weights; the others describe every case by it, once."""

Ways = Literal["all"] | Annotated[int, Field(ge=2, strict=True)]

_PAIR = re.compile(r"[1-9][0-9]{0,5}/[1-9][0-9]{0,5}")


class Method(Table):
    """One way to learn from the few cases of a new hospital.

    In a file it is such a table, or its name: 'ARM+USE', 'ARM+USE+hog+pixels', or a baseline.
    With 'shifted' among what follows the use, `shifted` is true.

    Attributes:
        name: By default those of arm and use, with '+' between them.
        arm: A federated arm, trained without the new hospital, or 'untrained'.
        use: What the hospital does with the arm's body and its cases: 'prototype' (nearest mean of
            a class), 'nearest' (nearest case), 'logistic' and 'svm' on its features; 'fine_tune'
            and 'gradual' of all its weights; 'adapt', the learner's own inner steps; 'prior', the
            study's local adaptation around the shared weights. Without an arm a baseline:
            'scratch', fine-tuning of random weights, or a classifier on the inputs themselves.
        beside: What stands beside the body's features: the image's gradients, its pixels, these
            made coarse (16 a side, of the image standardised by itself), or what lower layers of
            the body see.
        shifted: Whether each labelled image is learnt from in five places, itself and moved
            diagonally, and the probabilities of a query's five are averaged (geometric mean).
        episodes: At most so many; by default those of the table.
        options: Of the use, by name, where its defaults do not serve.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_+-]{0,63}$")]
    arm: Name | None = None
    use: Use | Baseline
    beside: tuple[Beside, ...] = ()
    shifted: Annotated[bool, Field(strict=True)] = False
    episodes: Count | None = None
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_its_name(cls, values: Any) -> Any:
        """Read 'ARM+USE+hog', as a whole or in a table's use."""
        if isinstance(values, str):
            arm, plus, use = values.strip().partition("+")
            values = {"arm": arm, "use": use} if plus else {"use": arm}
        if not isinstance(values, dict) or not isinstance(values.get("use"), str):
            return values
        use, *beside = values["use"].split("+")
        if "shifted" in beside:
            beside.remove("shifted")
            values = {**values, "shifted": True}
        values = {**values, "use": use, "beside": [*values.get("beside", ()), *beside]}
        last = "shifted" if values.get("shifted") else None
        named = [values.get("arm"), use, *values["beside"], last]
        return {"name": "+".join(str(part) for part in named if part is not None), **values}

    @model_validator(mode="after")
    def _has_an_arm_or_is_a_baseline(self) -> Method:
        if self.arm is None and self.use in USES:
            raise ValueError(
                f"method {self.name!r} says how to use a body and not whose: write 'ARM+{self.use}'"
                f" with a federated arm or {UNTRAINED!r}"
            )
        if self.arm is not None and self.use in BASELINES:
            raise ValueError(
                f"method {self.name!r}: {self.use!r} is a baseline and takes no arm; an arm's body "
                f"is used by one of {', '.join(USES)}"
            )
        more = [*self.beside, *(["shifted"] if self.shifted else [])]
        if more and (self.arm is None or self.use in OF_WEIGHTS):
            raise ValueError(
                f"method {self.name!r}: '+{more[0]}' goes with a body's features, and so with "
                f"{', '.join(u for u in USES if u not in OF_WEIGHTS)} of an arm"
            )
        return self


class SourcesSpec(Table):
    """The `sources` of the table: what each hospital's own body would give the new one.

    Attributes:
        arm: Whose plan each hospital runs alone; the first arm of the methods where it is left out.
        epsilon: Of the release of its features' moments alone; the training is paid for besides.
        dims: Of the space whose moments are released: a covariance has its square in numbers, and
            each has the noise.
        episodes: At most so many.
    """

    arm: Name | None = None
    epsilon: Positive = 2.0
    dims: Annotated[int, Field(ge=2, le=256, strict=True)] = 16
    episodes: Count = 50


class FewShot(Table):
    """How `sim fewshot` meets a new hospital, and which one `sim run` meets after training.

    Attributes:
        held_out: Hospitals that are new, each in turn; every hospital where it is empty.
        new: Hospitals that take no part in `sim run`, and are met after it.
        ways: How many of the new hospital's classes an episode draws; 'all': all of them.
        shots: Labelled patients of each class; of two classes also 'P/N': P of the second, which
            is the positive one, and N of the first.
        episodes: How many draws of labelled patients, the same for all methods.
        queries: The most other patients of a class that judge an episode, or 'all' of them.
        methods: See `Method`; where it is empty the study's own learner, used in a few ways.
        sources: Whether, and how, to rank the other hospitals' own bodies for the new one; `true`
            for all defaults.
    """

    held_out: tuple[Name, ...] = ()
    new: tuple[Name, ...] = ()
    ways: Ways = "all"
    shots: Annotated[tuple[Count | str, ...], Field(min_length=1)] = (5, 20)
    episodes: Count = 200
    queries: Count | Literal["all"] = 15
    methods: tuple[Method, ...] = ()
    sources: SourcesSpec | None = None

    @field_validator("sources", mode="before")
    @classmethod
    def _true_is_a_table(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _makes_sense(self) -> FewShot:
        for number in self.shots:
            if isinstance(number, str) and not _PAIR.fullmatch(number):
                raise ValueError(
                    f"shots has {number!r}: give whole numbers from 1, or of two classes 'P/N' "
                    "such as '5/20'"
                )
        listed = (
            ("held_out", self.held_out),
            ("new", self.new),
            ("shots", tuple(map(str, self.shots))),
            ("methods", tuple(method.name for method in self.methods)),
        )
        for what, names in listed:
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise ValueError(f"{what} has {twice[0]!r} twice: once is enough")
        return self

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms to train, in the order of the methods."""
        named = dict.fromkeys(m.arm for m in self.methods if m.arm not in (None, UNTRAINED))
        return tuple(name for name in named if name is not None)

    @property
    def source_arm(self) -> str | None:
        """The arm whose plan the sources run, each alone; None without sources or arms."""
        if self.sources is None:
            return None
        return self.sources.arm or next(iter(self.arms), None)

    @property
    def named_arms(self) -> tuple[str, ...]:
        """Every arm that the table needs a plan of."""
        more = (self.source_arm,) if self.source_arm is not None else ()
        return tuple(dict.fromkeys((*self.arms, *more)))


def per_class(shots: int | str) -> tuple[int, ...]:
    """Return the labelled patients of each class in order, or one number for all of them.

    >>> per_class(5), per_class("5/20")
    ((5,), (20, 5))
    """
    if isinstance(shots, int):
        return (shots,)
    positive, other = shots.split("/")
    return int(other), int(positive)
