"""How a simulation makes hospitals of a public data set, as data: one table a recipe.

Each recipe is a file of `simulations.partitions`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.schema import Count, Name, Positive, Table


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


class BreastCancer(Table):
    """The Wisconsin data cut into hospitals; see `simulations.partitions.breast_cancer`.

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
    def _makes_sense(self) -> BreastCancer:
        names = [h.name for h in self.hospitals]
        if len(set(names)) < len(names):
            raise ValueError("simulation.partition.hospitals names a hospital twice")
        if not 0 <= self.repeat[0] <= self.repeat[1]:
            raise ValueError(f"repeat is {list(self.repeat)}; give [low, high], 0 <= low <= high")
        return self


class ColumnSite(Table):
    """A hospital of a table: the column's value, and its public, rounded count of patients."""

    value: str
    declared: Count


class ByColumn(Table):
    """One table whose column names the hospitals; see `simulations.partitions.by_column`.

    Attributes:
        path: A CSV file, relative to the data folder.
        column: Names the hospital of each row.
        hospitals: By name; rows of other values are left out.
    """

    source: Literal["column"]
    path: Path
    column: str
    hospitals: dict[Name, ColumnSite] = Field(min_length=1)


class Registry(Table):
    """A registry whose patients' ids name a centre; see `simulations.partitions.registry`.

    Attributes:
        path: A CSV file of patients, relative to the data folder.
        patient: Its column of ids.
        separator: What parts an id into pieces.
        place: Which piece is the centre's code, counted from 1.
        centres: A CSV file of centres, likewise.
        centre: Its column of codes.
        column: Its column that names the hospital, or the region, of each centre.
        parts: A CSV file that parts the patients, with the same column of ids; for the split
            'given'. Patients who are not in it are left out.
        part: Its column of parts, 'train' or 'test'.
        hospitals: By name; patients of other values are left out.
    """

    source: Literal["registry"]
    path: Path
    patient: str
    separator: Annotated[str, Field(min_length=1)] = "-"
    place: Count
    centres: Path
    centre: str
    column: str
    parts: Path | None = None
    part: str | None = None
    hospitals: dict[Name, ColumnSite] = Field(min_length=1)

    @model_validator(mode="after")
    def _parts_have_a_column(self) -> Registry:
        if (self.parts is None) != (self.part is None):
            raise ValueError(
                f"parts is {self.parts} and part is {self.part}: give the file and its column, or "
                "leave both out"
            )
        return self


class DealtImages(Table):
    """One archive of images dealt to hospitals; see `simulations.partitions.images`.

    Attributes:
        path: An npz archive with images, labels and patient, relative to the data folder.
        labels: Which labels to take; all where it is empty.
        unit: What is dealt whole: a patient, or a record where the archive names no patients.
        drop_copies: Whether of images with the same pixels only the first is taken, and none where
            their labels differ.
        hospitals: How many.
        alpha: Of the Dirichlet distribution by which each outcome is dealt.
        gamma: Standard deviation, on the log scale, of a hospital's gamma.
        contrast: The same for its contrast.
        brightness: Standard deviation of its brightness, in units of the full range.
        blur: Largest standard deviation of its blur, in pixels.
        noise: Largest standard deviation of its noise, in units of the full range.
    """

    source: Literal["images"]
    path: Path
    labels: tuple[int, ...] = ()
    unit: Literal["patient", "record"] = "patient"
    drop_copies: Annotated[bool, Field(strict=True)] = False
    hospitals: Annotated[int, Field(ge=2)] = 8
    alpha: Positive = 3.0
    gamma: Annotated[float, Field(ge=0)] = 0.0
    contrast: Annotated[float, Field(ge=0)] = 0.0
    brightness: Annotated[float, Field(ge=0)] = 0.0
    blur: Annotated[float, Field(ge=0)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0


class DealtRows(Table):
    """The rows of one table dealt to hospitals; see `simulations.partitions.rows`.

    Attributes:
        path: A table, relative to the data folder: ARFF where it ends so (.arff), else CSV.
        hospitals: How many.
        alpha: Of the Dirichlet distribution by which each outcome is dealt.
        drop_copies: Whether of rows that agree in every column only the first is taken.
    """

    source: Literal["rows"]
    path: Path
    hospitals: Annotated[int, Field(ge=2)] = 6
    alpha: Positive = 3.0
    drop_copies: Annotated[bool, Field(strict=True)] = False


class ArchiveSite(Table):
    """A hospital that is an archive of images of its own.

    Attributes:
        path: An npz archive with images, labels and, where it has them, patient, relative to the
            data folder.
        classes: Names of its classes; the label of the first is 0, of the next 1, unless `labels`
            says others. An image of another label is left out.
        labels: One a class.
        declared: The public, rounded count of all its patients.
        drop_copies: As that of the recipe 'images'.
    """

    path: Path
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    labels: tuple[int, ...] = ()
    declared: Count
    drop_copies: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _one_label_a_class(self) -> ArchiveSite:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes is {list(self.classes)}: name each class once")
        if self.labels and len(set(self.labels)) != len(self.classes):
            raise ValueError(
                f"labels is {list(self.labels)} for {len(self.classes)} classes: give each class "
                "a label of its own, or leave labels out"
            )
        return self


class Archives(Table):
    """Several archives of images, each a hospital; see `simulations.partitions.archives`."""

    source: Literal["archives"]
    hospitals: dict[Name, ArchiveSite] = Field(min_length=1)


class Alphabets(Table):
    """Alphabets of one Omniglot archive, and which hospitals they make.

    Attributes:
        path: An npz archive with images, labels and classes ('Alphabet/characterNN'), relative to
            the data folder.
        alphabets: Which to take, each a hospital named after it.
        together: Name of the one hospital that they make instead.
        rotations: In how many of the four right angles, from 0 degrees on, each character is
            taken: a character on its side is another class (Santoro et al. 2016).
    """

    path: Path
    alphabets: Annotated[tuple[str, ...], Field(min_length=1)]
    together: Name | None = None
    rotations: Annotated[int, Field(ge=1, le=4, strict=True)] = 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its hospitals, one an alphabet unless they are together."""
        if self.together is not None:
            return (self.together,)
        return tuple(_plain(alphabet) for alphabet in self.alphabets)


def _plain(alphabet: str) -> str:
    """Return an alphabet as a hospital's name.

    >>> _plain("Japanese_(katakana)")
    'japanese-katakana'
    """
    return "-".join(re.findall("[a-z0-9]+", alphabet.lower()))


class Omniglot(Table):
    """Drawn characters (Lake et al. 2015); see `simulations.partitions.omniglot`."""

    source: Literal["omniglot"]
    archives: Annotated[tuple[Alphabets, ...], Field(min_length=1)]

    @property
    def hospitals(self) -> tuple[str, ...]:
        """Names of all hospitals."""
        return tuple(name for archive in self.archives for name in archive.names)

    @model_validator(mode="after")
    def _each_hospital_once(self) -> Omniglot:
        names = self.hospitals
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"hospital {twice!r} stands twice in simulation.partition.archives: name an "
                "alphabet once, or put one of them in a hospital of another name (together)"
            )
        return self


class Reviews(Table):
    """Abstracts of several reviews of the literature; see `simulations.partitions.reviews`.

    Attributes:
        path: An npz archive of hashed words, relative to the data folder.
        hospitals: Each review's public, rounded count of abstracts, by the review's name in lower
            case.
    """

    source: Literal["reviews"]
    path: Path
    hospitals: dict[Name, Count] = Field(min_length=1)


Partition = Annotated[
    BreastCancer | ByColumn | Registry | DealtImages | DealtRows | Archives | Omniglot | Reviews,
    Field(discriminator="source"),
]
