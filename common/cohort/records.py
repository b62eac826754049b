"""What a reader finds in a file, before it is parted: one entry a record, in the file's order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Records:
    """The records of one file.

    Attributes:
        x: Inputs, (records, *input_shape), float32.
        labels: Each record's outcome, as text; of survival, whether its time ended with the event.
        patients: Each record's patient.
        contents: A hash of each record's raw bytes, by which exact copies are known.
        incomplete: Whether a declared feature is missing, (records,).
        notes: What was clamped, missing or resized: for the site's own eyes.
        missing: How many records miss each feature that any misses: (feature, records).
        left_out: How many records of the file are not here; `missing` is of these as well.
        times: Of survival, each record's time, as text.
        parts: Where the file has a column 'part', what it says of each record.
        numbers: Each record's number in the file, from 1, where some were left out.
    """

    x: NDArray[np.float32]
    labels: list[str]
    patients: list[str]
    contents: list[bytes]
    incomplete: NDArray[np.bool_]
    notes: tuple[str, ...] = ()
    missing: tuple[tuple[str, int], ...] = ()
    left_out: int = 0
    times: list[str] | None = None
    parts: list[str] | None = None
    numbers: NDArray[np.int64] | None = None

    @property
    def places(self) -> NDArray[np.int64]:
        """Each record's number in the file, from 1, (records,)."""
        return np.arange(1, len(self.labels) + 1) if self.numbers is None else self.numbers

    def select(self, kept: NDArray[np.bool_], *, note: str) -> Records:
        """Return the records for which `kept` holds, with one note more.

        What was noted and counted stays: it is of all records of the file.
        """
        return Records(
            self.x[kept],
            list(compress(self.labels, kept)),
            list(compress(self.patients, kept)),
            list(compress(self.contents, kept)),
            self.incomplete[kept],
            (*self.notes, note),
            self.missing,
            self.left_out + int((~kept).sum()),
            None if self.times is None else list(compress(self.times, kept)),
            None if self.parts is None else list(compress(self.parts, kept)),
            self.places[kept],
        )


def fingerprint(content: bytes) -> bytes:
    """Return SHA-256 of a record's raw bytes.

    >>> fingerprint(b"x") == fingerprint(b"x"), len(fingerprint(b""))
    (True, 32)
    """
    return hashlib.sha256(content).digest()
