"""The public data sets of the studies: where they are at home, and how to know that they are whole.

Paths are those that the studies name below the data folder (`--data`, or GRANDROUNDS_DATA). A set
that needs work on its originals is in `simulations.by_hand`.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.embedded import embedded_studies
from common.errors import DataError
from simulations.by_hand import BY_HAND, ByHand

State = Literal["correct", "differs", "partial", "missing"]

_CHUNK = 1 << 20  # bytes read at a time, so that a large file does not fill the memory


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Attributes:
        path: Where a study looks for it, below the data folder.
        url: Its official address.
        algorithm: Of the checksum: MD5 where the publisher gives no better one.
        digest: The checksum, in hexadecimal.
        size: Bytes.
    """

    path: str
    url: str
    algorithm: Literal["sha256", "md5"]
    digest: str
    size: int

    @property
    def checksum(self) -> str:
        """The checksum with its algorithm, as messages show it."""
        return f"{self.algorithm} {self.digest}"


@dataclass(frozen=True)
class Dataset:
    """A public data set.

    Attributes:
        home: The page that describes it.
        cite: The DOI to cite, as its licence asks.
        count: How many of `unit` it holds.
        unit: What one row or picture is: patients, images.
    """

    name: str
    title: str
    licence: str
    home: str
    cite: str
    count: int
    unit: str
    files: tuple[DataFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the studies look for its files, below the data folder."""
        return tuple(file.path for file in self.files)


def _uci_heart(hospital: str, digest: str, size: int) -> DataFile:
    name = f"processed.{hospital}.data"
    home = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease"
    return DataFile(f"uci_heart/{name}", f"{home}/{name}", "sha256", digest, size)


def _medmnist(name: str, digest: str, size: int) -> DataFile:
    url = f"https://zenodo.org/records/10519652/files/{name}?download=1"
    return DataFile(f"medmnist/{name}", url, "md5", digest, size)


def _pneumonia(suffix: str, pixels: int, digest: str, size: int) -> Dataset:
    return Dataset(
        name=f"pneumoniamnist{suffix}",
        title=f"Chest X-rays, {pixels} pixels (MedMNIST)",
        licence="CC BY 4.0",
        home="https://zenodo.org/records/10519652",
        cite="10.5281/zenodo.10519652",
        count=5856,
        unit="images",
        files=(_medmnist(f"pneumoniamnist{suffix}.npz", digest, size),),
    )


_HEART = Dataset(
    name="heart",
    title="Heart disease, four hospitals (UCI)",
    licence="CC BY 4.0",
    home="https://archive.ics.uci.edu/dataset/45/heart+disease",
    cite="10.24432/C52P4X",
    count=920,
    unit="patients",
    files=(
        _uci_heart(
            "cleveland", "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8", 18461
        ),
        _uci_heart(
            "hungarian", "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796", 10263
        ),
        _uci_heart(
            "switzerland", "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314", 4109
        ),
        _uci_heart("va", "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f", 6737),
    ),
)

DATASETS: tuple[Dataset, ...] = (
    _HEART,
    _pneumonia("", 28, "28209eda62fecd6e6a2d98b1501bb15f", 4_170_669),
    _pneumonia("_64", 64, "8f4eceb4ccffa70c672198ea285246c6", 20_606_998),
)


def find_dataset(name: str) -> Dataset:
    """Return the data set of that name.

    Raises:
        DataError: there is none, and the message lists the names; or it is got by hand, and the
            message says how.

    >>> find_dataset("heart").size
    39570
    """
    wanted = name.replace("-", "_")
    for dataset in DATASETS:
        if dataset.name == wanted:
            return dataset
    for by_hand in BY_HAND:
        if by_hand.name == wanted:
            raise _must_be_made(by_hand)
    known = ", ".join([*(one.name for one in DATASETS), *(one.name for one in BY_HAND)])
    raise DataError(f"no data set is named {name!r}", remedy=f"use one of {known}")


def _must_be_made(dataset: ByHand) -> DataError:
    steps = [f"    {step}" for step in dataset.how]
    places = [f"    {path}" for path in dataset.paths]
    return DataError(
        f"{dataset.name} cannot be fetched by this command: its files are made from the originals",
        remedy="\n".join(
            [
                f"get it by hand from {dataset.home} ({dataset.licence}; cite "
                f"https://doi.org/{dataset.cite}):",
                *steps,
                "  put the result, below the data folder (--data, or GRANDROUNDS_DATA), at:",
                *places,
            ]
        ),
    )


def studies_of(dataset: Dataset | ByHand) -> list[str]:
    """List the studies that come with grandrounds and read a data set's files.

    >>> studies_of(find_dataset("heart"))
    ['heart', 'heart_flamby', 'heart_personal', 'heart_privacy']
    """
    found = []
    for path in embedded_studies():
        simulation = tomllib.loads(path.read_text(encoding="utf-8")).get("simulation", {})
        if set(_texts_in(simulation)) & set(dataset.paths):
            found.append(path.stem)
    return found


def _texts_in(values: Any) -> Iterator[str]:
    """Yield every text of a table, its files below the data folder among them."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _texts_in(value)


def partial_path(path: Path) -> Path:
    """Return where the part of a file that has come so far is kept.

    >>> partial_path(Path("a.npz")).name
    'a.npz.part'
    """
    return path.with_name(f"{path.name}.part")


def digest_of(path: Path, algorithm: str) -> str:
    """Return a file's checksum in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    total = hashlib.new(algorithm, usedforsecurity=False)  # MD5 here finds accidents, not attacks
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def file_state(file: DataFile, folder: Path) -> State:
    """Tell whether a file is below a data folder, and whether it is the published one.

    Raises:
        DataError: something is there that cannot be read.
    """
    path = folder / file.path
    try:
        if path.exists():
            same = path.stat().st_size == file.size
            same = same and digest_of(path, file.algorithm) == file.digest
            return "correct" if same else "differs"
        return "partial" if partial_path(path).exists() else "missing"
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be read: {error.strerror}",
            remedy="make it readable, or name another folder",
        ) from None
