"""Approving a study: compiled here, held to the policy and the patients, filed, made known."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Any

from client.desk.changes import changed_rules
from client.desk.cohorts import Terms, check_one_cohort
from client.desk.opinion import Opinion, judge
from client.desk.record import approval_record
from client.ledger import Ledger
from client.patients.manifest import confirm_cohort
from client.patients.withdrawal import withdrawn_at
from client.site import Site
from common.cohort.parts import Cohort
from common.cohort.read import read_cohort
from common.errors import DataError, SiteError
from common.files import write_atomic
from common.plan import Plan, compile_study, write_plan
from common.study import parse_study

_SHORTEST_DIGEST = 6  # characters that stand for a whole digest


def compile_values(values: Mapping[str, Any], *, origin: str) -> Plan:
    """Compile the study that plain values describe: the site fixes the noise itself.

    Raises:
        StudyError: it is no study, or its noise cannot be fixed.
    """
    return compile_study(parse_study(dict(values), origin=origin))


def approve(
    site: Site, ledger: Ledger, plan: Plan, *, by: str | None = None, runs: int | None = None
) -> dict[str, Any]:
    """Approve a study: from now on the agent answers for it.

    The patients are read and counted; what was found is told to the site alone. The plan's file,
    which makes the agent answer, is written last: a crash on the way leaves the study unapproved.

    Args:
        site: The site's folder, read, with the cohort to be used chosen.
        ledger: Gets an entry `approval`, and `cohort` where the patients' files are new.
        plan: The study, compiled.
        by: Who approves; the user of this process where it is left out.
        runs: How many runs in all the approval covers; as many as the policy lets where left out.

    Returns:
        study, digest, cohort, runs, by, record (a path), epsilon and delta of one run, left
        (epsilon and delta after all runs), patients, notes, and `changes`: rules that differ from
        an approval of a study of that name.

    Raises:
        SiteError: the policy objects, or too few patients are there.
        DataError: the patients do not fit the study.
    """
    name, number = by or user_name(), site.policy.runs if runs is None else runs
    if number < 1:
        raise SiteError(f"--runs is {number}", remedy="approve at least 1 run")
    opinion = judge(site, ledger, plan, runs=number)
    _check(opinion, plan)
    cohort = read_cohort(site.source, plan.study.cohort, without=withdrawn_at(site.folder, ledger))
    _check_size(site, plan, cohort)
    changes = changed_rules(site, plan)
    with ledger.transaction():
        confirm_cohort(site, ledger, plan.study.cohort, by=name)
        body = {"digest": plan.digest, "study": plan.study.name, "runs": number, "by": name}
        # Again, since a round may have been answered meanwhile.
        charged = check_one_cohort(site, ledger, plan)
        ledger.record("approval", {**body, **Terms.of(site).to_json(), "charged": charged})
    record = approval_record(site, plan, opinion, by=name, runs=number, changes=changes)
    return {
        "study": plan.study.name,
        "digest": plan.digest,
        "cohort": site.cohort_name,
        "runs": number,
        "by": name,
        "record": str(_file(site, plan, record)),
        "epsilon": plan.epsilon if plan.private else None,
        "delta": plan.delta if plan.private else None,
        "left": {
            "epsilon": site.policy.epsilon - opinion.after[0],
            "delta": site.policy.delta - opinion.after[1],
        },
        "patients": cohort.train.patients + cohort.holdout.patients,
        "notes": list(cohort.notes),
        "changes": changes,
    }


def _file(site: Site, plan: Plan, record: str) -> Any:
    """Write the record and a copy of the plan for the board, then the plan for the agent."""
    for name in ("approvals", "approved"):
        (site.folder / name).mkdir(mode=0o700, exist_ok=True)
    path = site.folder / "approvals" / f"{plan.digest}.md"
    write_atomic(path, record, mode=0o600)
    write_plan(plan, path.parent).chmod(0o600)
    write_plan(plan, site.folder / "approved").chmod(0o600)
    return path


def revoke(site: Site, ledger: Ledger, digest: str, *, by: str | None = None) -> dict[str, Any]:
    """Take an approval back: the agent refuses the study from its next request on.

    What was spent stays spent; what the study still held on paper is free again.

    Args:
        site: The site's folder, read.
        ledger: Gets an entry `revocation`.
        digest: The study's digest, or enough of its beginning, or its name.
        by: Who revokes.

    Raises:
        SiteError: no approved study is meant, or more than one.
    """
    found = find_approved(site, digest)
    (site.folder / "approved" / f"{found}.toml").unlink()
    name = by or user_name()
    ledger.record("revocation", {"digest": found, "by": name})
    return {"digest": found, "by": name}


def find_approved(site: Site, text: str) -> str:
    """Return the digest of the approved study that a digest's beginning, or a name, means.

    Raises:
        SiteError: there is none, or there are several.
    """
    names = {p.stem: "" for p in (site.folder / "approved").glob("*.toml")}
    names |= {digest: plan.study.name for digest, plan in site.plans().items()}
    is_digest = len(text) >= _SHORTEST_DIGEST
    found = [
        d for d, n in names.items() if (text and n == text) or (is_digest and d.startswith(text))
    ]
    if len(found) == 1:
        return found[0]
    told = ", ".join(f"{names[d]} {d[:12]}" for d in found or names) or "none"
    if found:
        raise SiteError(
            f"study {text!r} is approved {len(found)} times: {told}", remedy="give the digest"
        )
    raise SiteError(
        f"no approved study is {text!r}; approved are: {told}",
        remedy=f"give its name, or {_SHORTEST_DIGEST} characters or more of its digest",
    )


def runs_approved(ledger: Ledger, digest: str) -> int | None:
    """Return how many runs a study's approval covers; None where none was given or it was revoked.

    A plan that somebody else laid into the site's folder is none: the ledger alone says what was
    approved.
    """
    kinds = ("approval", "revocation")
    found = [e for k in kinds for e in ledger.entries(k) if e.body.get("digest") == digest]
    newest = max(found, key=lambda e: e.seq, default=None)
    return int(newest.body["runs"]) if newest and newest.kind == "approval" else None


def user_name() -> str:
    """Return the name of the user who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def _check(opinion: Opinion, plan: Plan) -> None:
    if not opinion.objections:
        return
    first = opinion.objections[0]
    more = len(opinion.objections) - 1
    others = f" (and {more} more: see site review)" if more else ""
    raise SiteError(
        f"the site's policy objects to study {plan.study.name!r}: {first.reason}; "
        f"{first.name} is {first.limit}, and the study has {first.found}{others}",
        remedy=first.remedy,
    )


def _check_size(site: Site, plan: Plan, cohort: Cohort) -> None:
    """Hold the true count to the limits that a refusal may only hold the declared one to."""
    patients = cohort.train.patients + cohort.holdout.patients
    limits = {
        "min_cohort in policy.toml": site.policy.min_cohort,
        "the study's cohort.min_declared": plan.study.cohort.min_declared,
    }
    for name, least in limits.items():
        if patients < least:
            raise DataError(
                f"site {site.cohort.name!r} has {patients} patients that fit the study, and {name} "
                f"is {least}",
                remedy="wait for more patients; this count is for the hospital's eyes only",
            )
