"""What a search for similar cases found: rows, votes, a table. For the hospital alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from client.desk.received import Received
from client.patients.predictor import MARKS, csv_of
from common.cohort.inputs import Inputs
from common.cohort.parts import Cohort
from common.cohort.read import Named
from common.retrieval import distance_of

MARK = MARKS["adapted"]  # the neighbours are patients


@dataclass(frozen=True)
class Neighbour:
    """One of the hospital's own records, found near a query.

    Attributes:
        place: Where it stands in the gallery.
        record: Its number in the site's file, from 1.
        patient: The patient's id; None where the study names no column.
        outcome: Its class.
        distance: From the query.
        part: train or holdout.
    """

    place: int
    record: int
    patient: str | None
    outcome: str
    distance: float
    part: str

    def row(self, rank: int) -> dict[str, Any]:
        """Return its row of a table."""
        named = {} if self.patient is None else {"patient": self.patient}
        found = {"class": self.outcome, "distance": self.distance, "part": self.part}
        return {"rank": rank, "record": self.record, **named, **found}


@dataclass(frozen=True)
class Gallery:
    """All of a hospital's cases that have not withdrawn, train before holdout.

    Attributes:
        cohort: The cases.
        named: Who they are, by part.
        classes: Each one's class, by name.
    """

    cohort: Cohort
    named: tuple[Named, Named]
    classes: list[str]

    @cached_property
    def patients(self) -> list[str]:
        """Each record's patient."""
        return [patient for part in self.named for patient in part.patients]

    @cached_property
    def numbers(self) -> list[int]:
        """Each record's number in the site's file."""
        return [number for part in self.named for number in part.numbers]

    def neighbour(self, place: int, distance: float, *, is_named: bool) -> Neighbour:
        """Return one of the cases as a query's neighbour."""
        part = "train" if place < len(self.named[0].numbers) else "holdout"
        patient = self.patients[place] if is_named else None
        number, outcome = self.numbers[place], self.classes[place]
        return Neighbour(place, number, patient, outcome, distance, part)


@dataclass(frozen=True)
class Retrieved:
    """What was found for each new case.

    Attributes:
        received: The model's run and study.
        gallery: Where was looked.
        cases: The new cases.
        neighbours: Of each new case, the nearest first; none for one that misses a feature where
            the study takes complete cases only.
        about: What was done and how far to trust it, in sentences.
        notes: What was missing, out of range or left out.
    """

    received: Received
    gallery: Gallery
    cases: Inputs
    neighbours: tuple[tuple[Neighbour, ...], ...]
    about: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def shares(self) -> dict[str, float]:
        """The share of each class among all cases of the gallery."""
        return _shares(self.gallery.classes)

    def votes(self, query: int) -> dict[str, float]:
        """The share of each class among a query's neighbours, the largest first."""
        return _shares([neighbour.outcome for neighbour in self.neighbours[query]])

    def queries(self) -> list[dict[str, Any]]:
        """Return one entry a new case: record, patient, votes, neighbours."""
        names, found = self.cases.patients, []
        for number, neighbours in enumerate(self.neighbours):
            named = {} if names is None else {"patient": names[number]}
            rows = [one.row(rank) for rank, one in enumerate(neighbours, start=1)]
            votes = self.votes(number)
            found.append({"record": number + 1, **named, "votes": votes, "neighbours": rows})
        return found

    def to_csv(self) -> str:
        """Return a row for each neighbour of each new case; every row is marked."""
        is_named = self.received.plan.study.cohort.patient is not None
        columns = (
            "rank",
            "record",
            *(["patient"] if is_named else []),
            "class",
            "distance",
            "part",
        )
        model = {"model": self.received.run, "use": MARK}
        return csv_of(
            [
                {"query": query["record"], **row, **model}
                for query in self.queries()
                for row in query["neighbours"] or [dict.fromkeys(columns)]
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        plan, cohort = self.received.plan, self.gallery.cohort
        return {
            "study": plan.study.name,
            "digest": plan.digest,
            "run": self.received.run,
            "use": MARK,
            "distance": distance_of(plan.study.learner.metric),
            "records": len(self.gallery.classes),
            "patients": cohort.train.patients + cohort.holdout.patients,
            "shares": self.shares,
            "about": list(self.about),
            "notes": list(self.notes),
            "queries": self.queries(),
        }


def _shares(classes: Sequence[str]) -> dict[str, float]:
    return {name: count / len(classes) for name, count in Counter(classes).most_common()}
