"""What a round took, what of it was computing, and the rest of it over many rounds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        seconds: From its start to the start of the next.
        compute: Seconds that the slowest site computed.
    """

    seconds: float
    compute: float

    @property
    def overhead(self) -> float:
        """Seconds in which the slowest site did not compute."""
        return self.seconds - self.compute


def logged_rounds(logs: Iterable[Iterable[str]], run: str) -> list[Round]:
    """Return the rounds of a run as its hospitals' agents saw them.

    A round lasts from the moment at which the first hospital was asked to train until the first was
    asked for the next round, or at the end for its evaluation: what the coordinator did in between
    is in it.

    Args:
        logs: The JSON lines of each agent's log.
        run: The run's name.
    """
    begins: dict[int, float] = {}
    compute: dict[int, float] = {}
    for record in (r for log in logs for r in _records(log) if r.get("run") == run):
        number, at = record["round"], datetime.fromisoformat(record["at"]).timestamp()
        words = record["message"].replace(",", "").split()
        match words[:2]:
            case ["asked:", "train"]:
                begins[number] = min(at, begins.get(number, at))
            case ["asked:", "evaluate"]:  # after the last round, whose number it has
                begins[number + 1] = min(at, begins.get(number + 1, at))
            case ["computed:", "train"]:
                compute[number] = max(float(words[2]), compute.get(number, 0.0))
    return [Round(begins[n + 1] - begins[n], compute[n]) for n in sorted(compute)]


def logged_at(lines: Iterable[str], words: str) -> float | None:
    """Return the time, in seconds since 1970, of the first message that begins with some words."""
    found = (r["at"] for r in _records(lines) if r["message"].startswith(words))
    at = next(found, None)
    return None if at is None else datetime.fromisoformat(at).timestamp()


def _records(lines: Iterable[str]) -> Iterable[Mapping[str, Any]]:
    """Give the records of a log; other programs' warnings may stand between them."""
    return (json.loads(line) for line in lines if line.startswith("{"))


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing, in seconds."""

    median: float
    least: float
    most: float
    count: int


def spread(values: Iterable[float]) -> Spread:
    """Return the median and the range of some measurements.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, least=1.0, most=3.0, count=3)
    """
    found = list(values)
    return Spread(statistics.median(found), min(found), max(found), len(found))
