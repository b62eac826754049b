"""What a study expects of every hospital's cohort: columns, labels, images, and the fixed encoding.

All of it is public and declared beforehand; no constant here is measured on patients.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """

    column: str = "label"
    classes: tuple[str, ...] = Field(min_length=2)
    map: dict[str, str] = Field(default_factory=dict)
    own: Annotated[bool, Field(strict=True)] = False
    ways: Annotated[int, Field(ge=2, le=10_000, strict=True)] | None = None
    ordinal: Annotated[bool, Field(strict=True)] = False

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
        complete_cases: Leave out every record in which a declared feature is missing.
    """

    patient: str | None = None
    max_records: Count = 1
    train_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.7
    min_declared: Count = 20
    columns: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("", "NA", "?")
    complete_cases: bool = False
    label: Label
    features: tuple[Feature, ...] = ()
    image: Image | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record: (features,), or (channels, size, size) of images without maps."""
        if self.image is not None:
            return self.image.input_shape
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

    @model_validator(mode="after")
    def _complete_cases_of_what_can_be_missing(self) -> CohortSchema:
        if self.complete_cases and self.image is not None:
            raise ValueError("complete_cases is for tables: an image has no missing values")
        idle = [f.name for f in self.features if f.indicator or f.kind == "missing"]
        if self.complete_cases and idle:
            raise ValueError(
                f"complete_cases leaves out what is missing, so the indicator of feature "
                f"{idle[0]!r} would always be 0"
            )
        return self
