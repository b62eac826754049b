"""A site's budget: what patients have spent, what begun studies hold on paper, what is left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from client.ledger import Account, Entry, Ledger
from client.ledger.book import Book
from client.policy import Policy
from client.policy.spending import held, total, whole_price
from client.site import Site
from common.plan import Plan
from common.privacy.accounting import ACCOUNTANT, ADJACENCY, UNIT, epsilon
from common.privacy.events import one_adjacency

MOST_POINTS = 48  # of a burn-down; each may ask the accountant for half a second


@dataclass(frozen=True)
class Line:
    """One study; epsilon in each case of (epsilon, `delta`).

    Attributes:
        digest: The study's.
        study: Its name; empty where its plan is no longer approved.
        spent: What one patient has spent at most.
        train: What a training patient has spent.
        holdout: What an evaluating patient has spent.
        reserved: What the study still holds on paper, to end the runs that it has begun.
        plan: What one whole run costs; None where its plan is no longer approved.
        delta: Of the study's promise, spent with its first release.
        runs: How many have begun.
        reserves: How many priced releases were reserved, answered or not.
    """

    digest: str
    study: str
    spent: float
    train: float
    holdout: float
    reserved: float
    plan: float | None
    delta: float
    runs: int
    reserves: int


@dataclass(frozen=True)
class Purse:
    """Limit, spent, held on paper beyond that, and left; infinite where noise was left out."""

    limit: float
    spent: float
    reserved: float
    left: float


@dataclass(frozen=True)
class Budget:
    """The budget of a site's patients.

    Attributes:
        cohort: The site's cohort: all its studies are about the same patients, so they add up.
        epsilon: Over all studies together.
        delta: Likewise.
        studies: One line each, those begun first.
    """

    cohort: str
    epsilon: Purse
    delta: Purse
    studies: tuple[Line, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; infinity, which JSON has not, is None."""
        promise = {"unit": UNIT, "adjacency": ADJACENCY, "accountant": ACCOUNTANT}
        return {**_finite(asdict(self)), **promise}


class Point(NamedTuple):
    """What had been spent after an entry.

    Attributes:
        seq: The entry's number.
        at: Its time (ISO 8601, UTC).
        digest: The study that it charged.
        study: What that study had cost by then, epsilon.
        total: What all studies had, added up.
    """

    seq: int
    at: str
    digest: str
    study: float
    total: float


def budget_of(
    accounts: Iterable[Account], *, policy: Policy, plans: Mapping[str, Plan], cohort: str = ""
) -> Budget:
    """Say what was spent, what is held on paper and what is left.

    Args:
        accounts: What the ledger says of each study.
        policy: The site's limits.
        plans: Approved plans by digest.
        cohort: The cohort's name.

    Raises:
        GrandroundsError: the ledger holds events of different adjacency.
    """
    accounts = list(accounts)
    one_adjacency(event for account in accounts for event in account.events)
    spent, spent_delta = total(accounts, plan_of=lambda digest: None)
    all_held, held_delta = total(accounts, plan_of=plans.get)
    waiting = [
        Account(d, p.delta) for d, p in plans.items() if d not in {a.digest for a in accounts}
    ]
    return Budget(
        cohort=cohort,
        epsilon=_purse(policy.epsilon, spent=spent, held=all_held),
        delta=_purse(policy.delta, spent=spent_delta, held=held_delta),
        studies=tuple(_line(account, plans.get(account.digest)) for account in accounts + waiting),
    )


def budget(site: Site, ledger: Ledger) -> dict[str, Any]:
    """Return a site's budget, with its burn-down, as plain values.

    Args:
        site: The site's folder, read.
        ledger: Its ledger.

    Returns:
        `Budget.to_json` with `burn_down`: a list of `Point` as dicts.
    """
    found = budget_of(
        ledger.accounts(), policy=site.policy, plans=site.plans(), cohort=site.cohort.name
    )
    points = burn_down(ledger.entries())
    return {**found.to_json(), "burn_down": [_finite(point._asdict()) for point in points]}


def burn_down(entries: Iterable[Entry], *, most: int = MOST_POINTS) -> list[Point]:
    """Return what had been spent over time.

    Args:
        entries: All entries of a ledger, in order.
        most: How many points about; the first and the last charge of each study are among them.
    """
    entries = list(entries)
    charges = [(e, digest) for e in entries for digest in _charged(e)]
    last = {digest: entry.seq for entry, digest in charges}
    first = {digest: entry.seq for entry, digest in reversed(charges)}
    step = max(1, -(-len(charges) // most))
    wanted = {entry.seq for entry, _ in charges[::step]} | {*first.values(), *last.values()}
    book, points = Book(), []
    for entry in entries:
        book.add(entry)
        if entry.seq in wanted:
            spent = {a.digest: epsilon(a.events, delta=a.delta) for a in book.accounts()}
            points += [
                Point(entry.seq, entry.at, digest, spent[digest], math.fsum(spent.values()))
                for digest in _charged(entry)
            ]
    return points


def _charged(entry: Entry) -> list[str]:
    """Return the studies that an entry charges."""
    if entry.kind == "reserve":
        return [entry.body["digest"]] if entry.body["events"] else []
    if entry.kind == "reconciliation":
        return [charge["digest"] for charge in entry.body["charges"] if charge["events"]]
    return []


def _line(account: Account, plan: Plan | None) -> Line:
    delta = account.delta
    parts = {
        part: epsilon((e for e in account.events if e.part == part), delta=delta)
        for part in ("train", "holdout")
    }
    spent = max(parts.values())
    all_held = epsilon(held(account, plan), delta=delta) if account.events else 0.0
    return Line(
        digest=account.digest,
        study="" if plan is None else plan.study.name,
        spent=spent,
        **parts,
        reserved=_beyond(all_held, spent),
        plan=None if plan is None else epsilon(whole_price(plan, runs=1), delta=plan.delta),
        delta=delta,
        runs=len(account.runs),
        reserves=account.reserves,
    )


def _purse(limit: float, *, spent: float, held: float) -> Purse:
    return Purse(limit, spent, _beyond(held, spent), max(0.0, limit - held))


def _beyond(whole: float, part: float) -> float:
    return max(0.0, whole - part) if math.isfinite(part) else 0.0


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
