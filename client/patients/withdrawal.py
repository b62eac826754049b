"""Withdrawal: a patient leaves every later round, and the hospital learns which runs came before.

The ledger keeps a keyed hash of the patient's id and never the id itself. What was released stays
released: its price in epsilon was a promise to this patient too.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.ledger import Ledger
from client.patients.uses import Named, look_up, names_a_record, uses
from client.policy import NOTHING
from client.site import Site, load_site
from common.errors import SiteError

SECRET = Path("keys") / "secret"
RELEASED = (
    "What was released before stays released; its epsilon bounds what it can tell about this "
    "patient too."
)
NOT_HELD = (
    "The site does not hold this id now; the runs listed may have used the patient if it did then."
)


def mark_of(secret: bytes, patient: str) -> str:
    """Return what the ledger keeps of a patient's id: HMAC-SHA256 in hex.

    >>> mark_of(b"secret", "17") == mark_of(b"secret", "17") != mark_of(b"other", "17")
    True
    """
    return hmac.new(secret, patient.encode(), hashlib.sha256).hexdigest()


def read_secret(folder: Path) -> bytes:
    """Return the site's secret, the key of every hash in the ledger.

    Raises:
        SiteError: it is not there or not of 32 bytes.
    """
    path = folder / SECRET
    content = path.read_bytes() if path.is_file() else b""
    if len(content) != 32:
        what = f"has {len(content)} bytes instead of 32" if content else "does not exist"
        raise SiteError(
            f"the site's secret {str(path)!r} {what}",
            remedy="restore it from the backup; a new site gets one by: grandrounds site init DIR",
        )
    return content


def withdrawn_at(folder: Path, ledger: Ledger) -> Callable[[str], bool] | None:
    """Return the test by which `common.cohort.read.read_cohort` leaves patients out, if any are.

    Raises:
        SiteError: patients have withdrawn, and the secret that would tell them is missing.
    """
    marks = ledger.withdrawn()
    if not marks:
        return None
    secret = read_secret(folder)
    return lambda patient: mark_of(secret, patient) in marks


def withdraw(
    folder: Path, ledger: Ledger, *, patient: str, anyway: bool = False, cohort: str | None = None
) -> dict[str, Any]:
    """Withdraw a patient from every cohort of the site and list the runs that may have used them.

    Args:
        folder: The site's folder.
        ledger: Gets one entry of kind `withdrawal` for each new id.
        patient: The id as the cohort's file has it, or `record:N` for the N-th record (from 1) of
            a cohort whose study names no patient's column.
        anyway: Withdraw an id that no cohort holds now.
        cohort: The cohort that `record:N` is counted in; needed where studies read several so.

    Returns:
        `already` (whether the patient was withdrawn before), `at`, `runs` (see
        `client.patients.uses.Use`) and `notes`; never the id.

    Raises:
        SiteError: no approved study's cohort holds the patient, it is open which cohort's record
            is meant, or the secret is missing.
    """
    site = load_site(folder, policy=NOTHING)  # what a site allows is no matter here
    secret = read_secret(folder)
    named = look_up(site, ledger, patient, cohort=cohort)
    _check_cohort(site, named, cohort)
    marks = {mark_of(secret, one) for one in named.found or [patient]}
    with ledger.transaction():
        new = marks - ledger.withdrawn()
        if new and not named.found and (not anyway or names_a_record(patient)):
            raise _unknown(site, named)
        for mark in sorted(new):
            ledger.record("withdrawal", {"patient": mark})
        last = [e for e in ledger.entries("withdrawal") if e.body["patient"] in marks][-1]
        before = [entry for entry in ledger.entries() if entry.seq < last.seq]
    runs = [use.to_json() for use in uses(site, named, before)]
    notes = [*named.notes, *([] if named.found else [NOT_HELD]), *([RELEASED] if runs else [])]
    return {"already": not new, "at": last.at, "runs": runs, "notes": notes}


def _check_cohort(site: Site, named: Named, cohort: str | None) -> None:
    """Hold --cohort to what it is for: the same number is another record in another cohort."""
    numbered = {
        named.cohorts[digest]
        for digest, plan in named.plans.items()
        if plan.study.cohort.patient is None and names_a_record(named.patient)
    }
    if cohort is None and len(numbered) > 1:
        raise SiteError(
            f"PATIENT_ID is {named.patient!r}, which is another record in each of cohorts "
            f"{', '.join(sorted(numbered))}",
            remedy="say which with --cohort",
        )
    if cohort is not None:
        site.view(cohort)
        if not names_a_record(named.patient):
            raise SiteError(
                f"--cohort is {cohort!r}, and an id is withdrawn from every cohort that has it",
                remedy="leave --cohort out; it is for record:N",
            )


def _unknown(site: Site, named: Named) -> SiteError:
    """Say why no patient was found, and how to name one."""
    unnamed = [p.study.name for p in named.plans.values() if p.study.cohort.patient is None]
    remedy = "check the id; to withdraw one that has left the cohort's file, add --anyway"
    if not named.plans:
        told = "and no study is approved here that would tell which column holds the ids"
    elif names_a_record(named.patient):
        told = "and no approved study whose records are patients has a record of that number"
        remedy = (
            "count the records from 1, without the line of column names; where a study names a "
            "patient's column, give the id in it"
        )
    elif unnamed:
        told = (
            f"and study {unnamed[0]!r} names no patient's column: each of its records is a patient "
            "of its own, known by a hash of what the record says"
        )
        remedy = (
            "name the record by its number in the file, from 1, as in record:17; leave it there "
            "as it is afterwards, since an edited record has another hash, or delete it"
        )
    else:
        files = {view.cohort_name: str(view.source.path) for view in site.views()}
        read = [files[name] for name in sorted(set(named.cohorts.values()) & set(files))]
        told = f"which no patient has in {', '.join(map(repr, read))}"
    return SiteError(f"PATIENT_ID is {named.patient!r}, {told}", remedy=remedy)
