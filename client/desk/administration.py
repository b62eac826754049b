"""What an administrator may ask of a site, whether its agent runs or not.

Each command is a function over the site's folder and ledger, from plain values to plain values. The
command line calls it in the running agent where there is one (`client.rpc.admin`), else here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from client.desk import approval
from client.desk.budget import budget
from client.desk.cohorts import Groups, cohort_of, is_as_approved, site_of
from client.desk.reconciliation import reconcile
from client.ledger import Account, Ledger
from client.patients.manifest import confirm_cohort, has_changed, images_column
from client.patients.withdrawal import withdraw
from client.policy import NOTHING, SEEDED
from client.policy.spending import held, total
from client.rpc import admin
from client.site import Site, ledger_of, load_site
from common.errors import GrandroundsError, SiteError
from common.privacy.accounting import epsilon


class Desk(Protocol):
    """What a command works on; an `Agent` is one."""

    @property
    def folder(self) -> Path:
        """The site's folder."""
        ...

    @property
    def ledger(self) -> Ledger:
        """The site's ledger."""
        ...


@dataclass(frozen=True)
class OwnDesk:
    """A folder and its ledger, opened for one command."""

    folder: Path
    ledger: Ledger


Values = dict[str, Any]
Command = Callable[[Desk, Values], Values]


def perform(folder: Path, name: str, **values: Any) -> Values:
    """Have a command carried out by the running agent, or here where none runs.

    Args:
        folder: The site's folder.
        name: A key of `COMMANDS`.
        values: Plain values, as the command takes them.

    Raises:
        GrandroundsError: what the command raises; a `SiteError` where it comes from the agent.
    """
    ledger_of(folder)  # a folder that is none is told apart from an agent that does not run
    if admin.is_running(folder):
        return admin.call(folder, name, **values)
    with opened(folder) as desk:
        return perform_locally(desk, name, values)


def perform_locally(desk: Desk, name: str, values: Values) -> Values:
    """Carry out a command in this process.

    Args:
        desk: The agent, or a desk of one's own.
        name: A key of `COMMANDS`.
        values: Plain values, as the command takes them.

    Raises:
        GrandroundsError: what the command raises, or there is no such command.
    """
    return _command(name)(desk, values)


def _command(name: str) -> Command:
    if name not in COMMANDS:
        raise SiteError(
            f"there is no command {name!r}", remedy=f"use one of {', '.join(sorted(COMMANDS))}"
        )
    return COMMANDS[name]


@contextmanager
def opened(folder: Path) -> Iterator[OwnDesk]:
    """Open a site's ledger for as long as the block lasts.

    Raises:
        SiteError: the ledger is not readable.
    """
    ledger = Ledger(ledger_of(folder))
    try:
        yield OwnDesk(folder, ledger)
    finally:
        ledger.close()


def _approve(desk: Desk, values: Values) -> Values:
    """Approve `study` (its rules) for `cohort`, by `by`, for `runs` runs."""
    plan = approval.compile_values(values["study"], origin=str(values.get("origin", "study")))
    chosen = values.get("cohort") or cohort_of(desk.ledger, plan.digest)
    site = load_site(desk.folder).view(str(chosen))
    return approval.approve(site, desk.ledger, plan, by=values.get("by"), runs=values.get("runs"))


def _revoke(desk: Desk, values: Values) -> Values:
    """Revoke `study`: a digest, its beginning, or a name."""
    site = load_site(desk.folder, policy=NOTHING)  # to end an approval needs no policy
    return approval.revoke(site, desk.ledger, str(values["study"]), by=values.get("by"))


def _pause(desk: Desk, values: Values) -> Values:
    """Refuse every request until resumed."""
    was_paused = desk.ledger.paused()
    if not was_paused:
        by = values.get("by") or approval.user_name()
        desk.ledger.record("pause", {"by": by, "why": str(values.get("why") or "")})
    return {"paused": True, "changed": not was_paused}


def _resume(desk: Desk, values: Values) -> Values:
    """Answer again."""
    was_paused = desk.ledger.paused()
    if was_paused:
        desk.ledger.record("resume", {"by": values.get("by") or approval.user_name()})
    return {"paused": False, "changed": was_paused}


def _withdraw(desk: Desk, values: Values) -> Values:
    """Withdraw `patient`."""
    anyway, cohort = bool(values.get("anyway")), values.get("cohort")
    patient = str(values["patient"])
    return withdraw(desk.folder, desk.ledger, patient=patient, anyway=anyway, cohort=cohort)


def _confirm(desk: Desk, values: Values) -> Values:
    """Take the patients' files as they are now for those that were approved."""
    site, by = load_site(desk.folder), values.get("by") or approval.user_name()
    ledger = desk.ledger
    read = [(site_of(site, ledger, d), plan.study.cohort) for d, plan in site.plans().items()]
    if not read:
        raise SiteError("no study is approved here", remedy="confirming is part of site approve")
    by_files = {(v.cohort_name, images_column(s, v.source.path)): (v, s) for v, s in read}
    changed = [confirm_cohort(view, ledger, s, by=by) for view, s in by_files.values()]
    return {"changed": any(changed)}


def _reconcile(desk: Desk, values: Values) -> Values:
    """Charge what a ledger that is behind may have lost."""
    by = values.get("by") or approval.user_name()
    return reconcile(load_site(desk.folder), desk.ledger, by=by)


def _status(desk: Desk, values: Values) -> Values:
    """Say how the site is: for its own eyes."""
    (site, fault), ledger = _without_policy(desk.folder), desk.ledger
    plans, accounts = site.plans(), {a.digest: a for a in ledger.accounts()}
    groups = Groups(site, ledger)
    spent = [
        total(groups.counted(accounts.values(), cohort=group[0]), plan_of=plans.get)
        for group in groups.groups()
    ]
    studies = []
    for digest, plan in plans.items():
        account = accounts.get(digest, Account(digest, plan.delta))
        on_paper = held(account, plan) if account.events else ()
        studies.append(
            {
                "study": plan.study.name,
                "digest": digest,
                "cohort": cohort_of(ledger, digest),
                "runs_begun": len(account.runs),
                "runs_approved": approval.runs_approved(ledger, digest) or site.policy.runs,
                "spent": finite(epsilon(account.events, delta=account.delta)),
                "held": finite(epsilon(on_paper, delta=account.delta)),
                "epsilon": finite(plan.epsilon),
                "delta": plan.delta,
                "cohort_changed": _changed(site, ledger, digest),
            }
        )
    return {
        "site": site.cohort.name,
        "declared": site.cohort.declared,
        "paused": ledger.paused(),
        "behind": ledger.behind,
        "policy": fault,
        "hours": site.policy.hours,
        "seeded_noise": SEEDED if site.policy.noise_seed is not None else None,
        "allow_unprotected": site.policy.allow_unprotected,
        "withdrawn": len(ledger.withdrawn()),
        "epsilon": {
            "allowed": None if fault else site.policy.epsilon,
            "held": finite(max(e for e, _ in spent)),
        },
        "delta": {
            "allowed": None if fault else site.policy.delta,
            "held": max(d for _, d in spent),
        },
        "studies": studies,
        "stale": {digest: error.message for digest, error in site.stale().items()},
    }


def _without_policy(folder: Path) -> tuple[Site, str | None]:
    """Return the site and what is wrong with its policy, in place of which nothing is allowed."""
    try:
        return load_site(folder), None
    except GrandroundsError as error:
        return load_site(folder, policy=NOTHING), error.message


def _changed(site: Site, ledger: Ledger, digest: str) -> bool | str:
    plan = site.approved(digest)
    assert plan is not None  # it is one of the site's plans
    try:
        view = site_of(site, ledger, digest)
        if not is_as_approved(view, ledger, digest):
            return "path or disjoint CHANGED: approve again"
        return has_changed(view, ledger, plan.study.cohort)
    except GrandroundsError as error:
        return error.message


def _budget(desk: Desk, values: Values) -> Values:
    """Say what was spent and what is left, by cohort and study."""
    return {**budget(load_site(desk.folder), desk.ledger), "behind": desk.ledger.behind}


def finite(value: float) -> float | None:
    """Return a number as JSON knows it; None for infinity."""
    return value if math.isfinite(value) else None


COMMANDS: Mapping[str, Command] = {
    "approve": _approve,
    "revoke": _revoke,
    "pause": _pause,
    "resume": _resume,
    "status": _status,
    "budget": _budget,
    "withdraw": _withdraw,
    "confirm": _confirm,
    "reconcile": _reconcile,
}
