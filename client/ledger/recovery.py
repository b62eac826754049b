"""A ledger that has lost entries: how that is said, and what is charged before it goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from client.ledger.book import Book
from common.errors import SiteError
from common.privacy.events import Event, to_json


class Charge(NamedTuple):
    """What a study may have released without an entry.

    Attributes:
        digest: The study.
        delta: Its delta.
        events: What the releases cost.
        reserves: How many releases that may have been: a receipt of any of them is then no news.
    """

    digest: str
    delta: float
    events: Iterable[Event]
    reserves: int = 1


class Behind(SiteError):
    """A release was asked of a ledger that has lost entries."""


def behind_error(why: str) -> Behind:
    """Return the error for a release that must wait until the ledger is reconciled."""
    return Behind(
        f"the ledger must be reconciled first: {why}",
        remedy="charge what may have been released since, then go on",
    )


def sighting(book: Book, digest: str, seen: int) -> dict[str, Any] | None:
    """Return the body of an entry for more reserves seen than the ledger holds; None if not so."""
    held = book.reserves(digest)
    if seen <= max(held, book.seen.get(digest, 0)):
        return None
    why = f"the coordinator has seen {seen} releases of study {digest[:12]}, the ledger has {held}"
    return {"digest": digest, "seen": seen, "held": held, "why": why}


def charges(book: Book, charge: Iterable[Charge], *, behind: str | None) -> list[dict[str, Any]]:
    """Return the charges of a reconciliation, with the reserves that each stands for.

    Raises:
        SiteError: nothing is behind, entries were edited, or a study that the coordinator has seen
            more of is not charged.
    """
    if behind is None:
        raise SiteError("the ledger is not behind", remedy="there is nothing to reconcile")
    if book.broken is not None:
        raise SiteError(
            f"the ledger cannot be reconciled: {behind}",
            remedy="restore the newest backup, or move the ledger away; then reconcile",
        )
    made = [_charged(book, one) for one in charge]
    missing = sorted(set(book.seen) - {one["digest"] for one in made if one["events"]})
    if missing:
        raise SiteError(
            f"study {missing[0]} was released more often than the ledger says",
            remedy="charge that study too, best with its whole plan",
        )
    return made


def _charged(book: Book, charge: Charge) -> dict[str, Any]:
    price = [to_json(event) for event in charge.events]
    unseen = book.seen.get(charge.digest, 0) - book.reserves(charge.digest)
    reserves = max(unseen, charge.reserves) if price else 0
    return {
        "digest": charge.digest,
        "delta": charge.delta,
        "events": price,
        "reserves": reserves,
    }
