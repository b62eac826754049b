"""What every partition makes, and how it complains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError

_ROUNDED_TO = 10  # a declared size is a round number at most the true one


@dataclass(frozen=True)
class Hospital:
    """A hospital of a simulation: where its patients are and how many it declares.

    Attributes:
        notes: What the partition had to change in its patients, as a reader's notes.
        classes: Its own classes, for a study with `label.own`.
    """

    name: str
    path: Path
    declared: int
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


@contextmanager
def of_partition() -> Iterator[None]:
    """Let what a cohort's reader says of a file name it as the partition's.

    Raises:
        DataError: as within.
    """
    try:
        yield
    except DataError as error:
        told = error.message.replace("cohort file", "partition file", 1)
        raise DataError(told, remedy=error.remedy) from error


def round_count(count: int) -> int:
    """Return the rounded count that a hospital made here declares.

    >>> round_count(237), round_count(7)
    (230, 7)
    """
    return count // _ROUNDED_TO * _ROUNDED_TO or count
