"""What a study expects of every hospital's cohort: columns, labels, images, and the fixed encoding.

All of it is public and declared beforehand; no constant here is measured on patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from common.errors import DataError
from common.schema import Count, Positive, Table


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

    Attributes:
        own: Whether each hospital has classes of its own (another disease). They stand in its
            cohort.toml, in order, as its column has them; here they are 'class 1', 'class 2', ...
        ways: With `own`, the most classes that a hospital can have.
        ordinal: Whether the classes are grades: each more than the one before it.
        event: Column that says whether `column`, a time in whole units, ended with the event or
            without (censored): a study of survival. Its two classes, no event and event, are those
            of this column, by default 0 and 1.
        edges: Of survival, the ends of the intervals in which events are counted, in the column's
            unit; the first begins at 0.
        horizon: Of survival, one of the edges, the last by default: the risk that is told and
            judged is of the event up to there.
    """

    column: str = "label"
    classes: tuple[str, ...] = Field(min_length=2)
    map: dict[str, str] = Field(default_factory=dict)
    own: Annotated[bool, Field(strict=True)] = False
    ways: Annotated[int, Field(ge=2, le=10_000, strict=True)] | None = None
    ordinal: Annotated[bool, Field(strict=True)] = False
    event: str | None = None
    edges: tuple[Positive, ...] = ()
    horizon: Positive | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that tell the outcome."""
        return (self.column,) if self.event is None else (self.column, self.event)

    @model_validator(mode="before")
    @classmethod
    def _last_edge_is_the_horizon(cls, values: Any) -> Any:
        """Let a study leave out the horizon, which its digest has to cover."""
        edges = values.get("edges") if isinstance(values, dict) else None
        if isinstance(edges, list | tuple) and edges and values.get("horizon") is None:
            return {**values, "horizon": edges[-1]}
        return values

    @model_validator(mode="after")
    def _is_of_survival_or_not(self) -> Label:
        if self.event is None:
            if self.edges or self.horizon is not None:
                raise ValueError(
                    "edges and horizon are of survival, and event is not given: name the column "
                    "that says whether the time ended with the event, or leave them out"
                )
            return self
        if self.event == self.column:
            raise ValueError(
                f"column and event are both {self.column!r}: the time is one, its end another"
            )
        if self.own or self.ordinal or len(self.classes) != 2:
            raise ValueError(
                f"event is {self.event!r} (survival), which has two classes, no event and event: "
                "leave own and ordinal out, and name two classes"
            )
        if not self.edges or any(a >= b for a, b in pairwise(self.edges)):
            raise ValueError(f"edges is {list(self.edges)}: give increasing times above 0")
        if self.horizon not in self.edges:
            raise ValueError(f"horizon is {self.horizon:g}: give one of edges {list(self.edges)}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _own_classes_are_numbered(cls, values: Any) -> Any:
        """Name the classes that a study leaves to its hospitals: its digest has to cover them."""
        if not isinstance(values, dict) or not values.get("own"):
            return values
        ways = values.get("ways")
        if type(ways) is not int or not 2 <= ways <= 10_000:
            raise ValueError(
                f"own is true and ways is {ways}: say how many classes a hospital has at most, "
                "from 2 to 10000"
            )
        numbered = [f"class {number}" for number in range(1, ways + 1)]
        if list(values.get("classes", numbered)) != numbered or values.get("map"):
            raise ValueError(
                "own is true, so classes and map are each hospital's (classes in its cohort.toml, "
                "or in simulation.sites): leave them out"
            )
        return {**values, "classes": numbered}

    @model_validator(mode="after")
    def _ways_are_of_own_classes(self) -> Label:
        if self.ways is not None and not self.own:
            raise ValueError(f"ways is {self.ways} and own is false: leave it out, or set own")
        return self

    def of_hospital(self, classes: Sequence[str]) -> Label:
        """Return the label as one hospital's file has it: its own classes, in its order.

        Raises:
            DataError: the study leaves the classes to the hospital, which names fewer than two,
                one twice, or more than the study has ways; or it names some and the study its own.
        """
        if not self.own:
            if classes:
                raise DataError(
                    f"classes are given ({', '.join(classes)}), and the study names its own "
                    f"({', '.join(self.classes)})",
                    remedy="leave classes out of cohort.toml, or take a study with label.own",
                )
            return self
        wrong = None
        if len(classes) < 2:
            wrong = f"{len(classes)} class(es) given"
        elif len(set(classes)) < len(classes):
            wrong = "a class stands twice"
        elif len(classes) > len(self.classes):
            wrong = f"{len(classes)} classes, and label.ways of the study is {len(self.classes)}"
        if wrong is not None:
            raise DataError(
                f"classes is {list(classes)}: {wrong}",
                remedy="name from 2 up to label.ways classes, as the label's column has them, in "
                "cohort.toml (a simulation: simulation.sites.NAME.classes)",
            )
        named = dict(zip(classes, self.classes, strict=False))
        return self.model_copy(update={"map": named})

    @model_validator(mode="after")
    def _maps_to_classes(self) -> Label:
        unknown = sorted(set(self.map.values()) - set(self.classes))
        if unknown:
            raise ValueError(f"label.map leads to {unknown[0]!r}, which is not in label.classes")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("label.classes names a class twice")
        return self


class Hog(Table):
    """Histograms of oriented gradients (Dalal and Triggs 2005), a fixed map of one image.

    Gradient orientations are counted in square cells of `pixels_per_cell` pixels a side, and
    normalised (L2-Hys) in blocks of `cells_per_block` cells a side, one cell apart. A value h in
    [0, 1] becomes (h - center) / scale.
    """

    kind: Literal["hog"]
    orientations: Annotated[int, Field(ge=2, le=36)] = 8
    pixels_per_cell: Annotated[int, Field(ge=2, le=1024)] = 7
    cells_per_block: Annotated[int, Field(ge=1, le=16)] = 1
    center: float = 0.0
    scale: Positive = 1.0

    def width(self, image: Image) -> int:
        """Return how many inputs it makes of an image: none where no block fits in it."""
        blocks = image.size // self.pixels_per_cell - self.cells_per_block + 1
        return max(blocks, 0) ** 2 * self.cells_per_block**2 * self.orientations


class Pixels(Table):
    """The image pooled to `size` pixels a side by the mean over square blocks.

    A mean m in [-1, 1] becomes (m - center) / scale.

    Attributes:
        standardise: First take away each image's own mean over its blocks and divide by its own
            standard deviation, which undoes brightness and contrast; a flat image becomes zeros.
    """

    kind: Literal["pixels"]
    size: Annotated[int, Field(ge=1, le=1024)]
    standardise: bool = False
    center: float = 0.0
    scale: Positive = 1.0

    def width(self, image: Image) -> int:
        """Return how many inputs it makes of an image: none where the blocks do not fit."""
        return 0 if image.size % self.size else image.channels * self.size**2


class Image(Table):
    """What every image becomes: square, of `size` pixels, values 0 to 255 mapped to [-1, 1].

    An image of another size is resized with its aspect kept and padded with black.

    Attributes:
        file: Column of an index that names each record's image file.
        maps: Fixed maps whose results, one after the other, take the place of the pixels.
    """

    size: Annotated[int, Field(ge=8, le=1024)]
    channels: Literal[1, 3] = 1
    file: str = "file"
    maps: tuple[Annotated[Hog | Pixels, Field(discriminator="kind")], ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record: (channels, size, size), or (features,) where there are maps."""
        if self.maps:
            return (sum(m.width(self) for m in self.maps),)
        return (self.channels, self.size, self.size)

    @model_validator(mode="after")
    def _maps_fit(self) -> Image:
        for number, fixed in enumerate(self.maps, start=1):
            if fixed.width(self):
                continue
            if isinstance(fixed, Pixels):
                raise ValueError(
                    f"map {number} pools to {fixed.size} pixels a side, "
                    f"which does not divide the size {self.size}"
                )
            raise ValueError(
                f"map {number}: {fixed.cells_per_block} cells of {fixed.pixels_per_cell} pixels "
                f"a side do not fit into {self.size} pixels"
            )
        return self


class Text(Table):
    """What every text becomes: `size` inputs of the words it has, of length 1 together.

    Attributes:
        words: Columns of the hashed vocabulary in which the cohort's file counts words.
        size: Inputs to which these are hashed further (`common.cohort.texts`).
    """

    words: Annotated[int, Field(ge=2, le=2**24, strict=True)]
    size: Annotated[int, Field(ge=2, le=2**16, strict=True)] = 1024

    @model_validator(mode="after")
    def _becomes_no_wider(self) -> Text:
        if self.size > self.words:
            raise ValueError(f"size is {self.size} and words {self.words}: give at most as many")
        return self


class CohortSchema(Table):
    """What the study expects of every hospital's cohort.

    Attributes:
        patient: Column of the patient's id; without one each record is a patient, known
            by its content, so that one more or less changes nobody else's id.
        max_records: k, the most records of one patient that a step uses.
        train_fraction: Share of patients that learning may touch; the others evaluate. 1 only where
            there is nothing to evaluate: in a study of an effect.
        min_declared: A hospital that declares fewer patients is left out.
        columns: Names of the columns of a file that has no header line.
        missing: Values that mean 'missing' in every column.
        complete_cases: Leave out every record in which a declared feature is missing.
    """

    patient: str | None = None
    max_records: Count = 1
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 0.7
    min_declared: Count = 20
    columns: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("", "NA", "?")
    complete_cases: bool = False
    label: Label
    features: tuple[Feature, ...] = ()
    image: Image | None = None
    text: Text | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record: (features,), or (channels, size, size) of images without maps."""
        if self.text is not None:
            return (self.text.size,)
        if self.image is not None:
            return self.image.input_shape
        return (sum(f.width for f in self.features),)

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> CohortSchema:
        kinds = (bool(self.features), self.image is not None, self.text is not None)
        if sum(kinds) != 1:
            raise ValueError(
                "give one of cohort.features (a table), cohort.image and cohort.text, and no more"
            )
        if self.label.event is not None and not self.features:
            raise ValueError(
                f"label.event is {self.label.event!r}, and times to an event are read from tables "
                "only: leave cohort.image and cohort.text out"
            )
        names = [f.name for f in self.features]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"feature {twice[0]!r} stands twice")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("cohort.columns names a column twice")
        return self

    @model_validator(mode="after")
    def _complete_cases_of_what_can_be_missing(self) -> CohortSchema:
        if self.complete_cases and not self.features:
            raise ValueError("complete_cases is for tables: nothing else has missing values")
        idle = [f.name for f in self.features if f.indicator or f.kind == "missing"]
        if self.complete_cases and idle:
            raise ValueError(
                f"complete_cases leaves out what is missing, so the indicator of feature "
                f"{idle[0]!r} would always be 0"
            )
        return self
