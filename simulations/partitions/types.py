"""What every partition makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
