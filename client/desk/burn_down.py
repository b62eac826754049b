"""What a site's patients had spent over time, as its ledger tells it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from client.desk.cohorts import Groups
from client.ledger import Entry
from client.ledger.book import Book
from common.privacy.accounting import epsilon

MOST_POINTS = 48  # of a burn-down; each may ask the accountant for half a second


class Point(NamedTuple):
    """What had been spent after an entry.

    Attributes:
        seq: The entry's number.
        at: Its time (ISO 8601, UTC).
        digest: The study that it charged.
        study: What that study had cost by then, epsilon.
        total: What all studies that add up with it had.
    """

    seq: int
    at: str
    digest: str
    study: float
    total: float


def burn_down(entries: Iterable[Entry], groups: Groups, *, most: int = MOST_POINTS) -> list[Point]:
    """Return what had been spent over time.

    Args:
        entries: All entries of a ledger, in order.
        groups: Which cohorts' studies add up.
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
            accounts = book.accounts()
            spent = {a.digest: epsilon(a.events, delta=a.delta) for a in accounts}
            for digest in _charged(entry):
                counted = groups.counted(accounts, cohort=groups.cohort(digest))
                all_spent = math.fsum(spent[account.digest] for account in counted)
                points.append(Point(entry.seq, entry.at, digest, spent[digest], all_spent))
    return points


def _charged(entry: Entry) -> list[str]:
    """Return the studies that an entry charges."""
    if entry.kind == "reserve":
        return [entry.body["digest"]] if entry.body["events"] else []
    if entry.kind == "reconciliation":
        return [charge["digest"] for charge in entry.body["charges"] if charge["events"]]
    return []
