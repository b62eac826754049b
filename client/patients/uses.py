"""Which runs may have used a patient: what was charged, and which part of a cohort it read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from client.desk.cohorts import cohort_of
from client.ledger import Entry, Ledger
from client.site import Site
from common.cohort.inputs import read_patients
from common.cohort.split import position
from common.errors import DataError, GrandroundsError, SiteError
from common.plan import Plan, read_plan

PARTS = ("train", "holdout")
LOST = "not known: charged when the ledger was reconciled"

_RECORD = re.compile(r"record:(\d{1,9})")


@dataclass(frozen=True)
class Use:
    """A run that may have used a patient.

    Attributes:
        digest: The study's digest.
        study: Its name; empty where its plan is no longer here.
        run: The run's name at this site, or why it is not known.
        part: train or holdout.
        rounds: The rounds reserved, in order; empty where they are not known.
        first: When the first was reserved (ISO 8601).
        last: When the last was.
    """

    digest: str
    study: str
    run: str
    part: str
    rounds: tuple[int, ...]
    first: str
    last: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "rounds": list(self.rounds)}


@dataclass(frozen=True)
class Named:
    """A patient, looked up in the cohort of each study.

    Attributes:
        patient: As it was named.
        plans: Every plan that the site knows, by digest.
        cohorts: The cohort that each was approved for.
        ids: The patient's id in each study's cohort: none where it does not hold the patient,
            and no key where the cohort could not be read.
        notes: What could not be read.
    """

    patient: str
    plans: dict[str, Plan]
    cohorts: dict[str, str]
    ids: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def found(self) -> list[str]:
        """The ids that the patient has in any study's cohort."""
        return sorted({one for ids in self.ids.values() for one in ids})


def names_a_record(patient: str) -> bool:
    """Tell whether a record is named by its number.

    >>> names_a_record("record:17"), names_a_record("17")
    (True, False)
    """
    return _RECORD.fullmatch(patient) is not None


def known_plans(site: Site) -> dict[str, Plan]:
    """Return every plan that the site approved, in force or revoked, as far as they are readable.

    A revoked study's plan is kept beside the board's record of its approval.
    """
    plans = site.plans()
    for path in sorted((site.folder / "approvals").glob("*.toml")):
        if path.stem not in plans:
            with suppress(GrandroundsError):  # written by another version
                plans[path.stem] = read_plan(path)
    return plans


def look_up(site: Site, ledger: Ledger, patient: str, *, cohort: str | None = None) -> Named:
    """Look a patient up in the file of each study's cohort, as that study reads it.

    Args:
        site: The site's folder, read.
        ledger: Says which cohort each study was approved for.
        patient: An id, or a record's number.
        cohort: In which cohort a record of that number is the patient's; in every one by default.
    """
    plans = known_plans(site)
    cohorts = {digest: cohort_of(ledger, digest) for digest in plans}
    found = {digest: _try_patients(site, cohorts[digest], plan) for digest, plan in plans.items()}
    read = {digest: names for digest, names in found.items() if isinstance(names, list)}
    own = {
        digest: _own_ids(names, patient, is_named=plans[digest].study.cohort.patient is not None)
        for digest, names in read.items()
        if cohort in (None, cohorts[digest])
    }
    known = {one for ids in own.values() for one in ids}
    ids = {digest: tuple(sorted(known.intersection(names))) for digest, names in read.items()}
    notes = [
        f"Study {plans[digest].study.name}: {error.message}. All its runs are listed."
        for digest, error in found.items()
        if not isinstance(error, list)
    ]
    return Named(patient, plans, cohorts, ids, tuple(notes))


def _try_patients(site: Site, cohort: str, plan: Plan) -> list[str] | GrandroundsError:
    try:
        return read_patients(site.view(cohort).source.path, plan.study.cohort)
    except (DataError, SiteError) as error:
        return error


def _own_ids(patients: list[str], patient: str, *, is_named: bool) -> tuple[str, ...]:
    """Return the ids of the patient in question among those of all records."""
    numbered = _RECORD.fullmatch(patient)
    if is_named or not numbered:
        return (patient,) if patient in patients else ()
    number = int(numbered[1])
    return tuple(patients[number - 1 : number]) if number else ()


def uses(site: Site, named: Named, entries: Iterable[Entry]) -> list[Use]:
    """Return the runs that may have used a patient, those begun first before the others.

    Args:
        site: The site's folder, read.
        named: The patient.
        entries: The ledger's, in order.
    """
    groups: dict[tuple[str, str, str], list[_Charge]] = {}
    for entry in entries:
        for charge in _charges(entry):
            own = _parts(site, named, charge.digest) if charge.parts else frozenset()
            for part in sorted(charge.parts & own, reverse=True):
                groups.setdefault((charge.digest, charge.run, part), []).append(charge)
    return [_use(named, *key, charges) for key, charges in groups.items()]


@dataclass(frozen=True)
class _Charge:
    """A price in the ledger, and the parts of the cohort that it is for."""

    at: str
    digest: str
    run: str
    round: int | None
    parts: frozenset[str]


def _charges(entry: Entry) -> Iterator[_Charge]:
    if entry.kind == "reserve":
        body = entry.body
        yield _Charge(entry.at, body["digest"], body["run"], body["round"], _read_by(body))
    elif entry.kind == "reconciliation":
        for charge in entry.body["charges"]:
            yield _Charge(entry.at, charge["digest"], LOST, None, _read_by(charge))


def _read_by(charge: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(event["part"] for event in charge["events"])


def _use(named: Named, digest: str, run: str, part: str, charges: list[_Charge]) -> Use:
    plan = named.plans.get(digest)
    rounds = sorted({c.round for c in charges if c.round is not None})
    study = plan.study.name if plan else ""
    return Use(digest, study, run, part, tuple(rounds), charges[0].at, charges[-1].at)


def _parts(site: Site, named: Named, digest: str) -> frozenset[str]:
    """Return the parts of a study's cohort that the patient is in: both where it cannot be told."""
    plan = named.plans.get(digest)
    if plan is None or digest not in named.ids:
        return frozenset(PARTS)
    # An id that no cohort holds any more may have been in each of them once.
    ids = named.ids[digest] if named.found else (named.patient,)
    if site.source.split != "keyed":  # then others' outcomes moved the patient too
        return frozenset(PARTS if ids else ())
    fraction = plan.study.cohort.train_fraction
    places = [position(site.source.split_key, one) for one in ids]
    return frozenset("train" if place < fraction else "holdout" for place in places)
