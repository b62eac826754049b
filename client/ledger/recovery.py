"""A ledger that has lost entries: how that is said, and what is charged before it goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from client.ledger.book import Book
from common.errors import SiteError
from common.privacy.events import Event, to_json

Charge = tuple[str, float, Iterable[Event]]
"""(digest, delta, events) of a study that may have gone on without an entry."""


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
    made = [_charged(book, *one) for one in charge]
    missing = sorted(set(book.seen) - {one["digest"] for one in made if one["events"]})
    if missing:
        raise SiteError(
            f"study {missing[0]} was released more often than the ledger says",
            remedy="charge that study too, best with its whole plan",
        )
    return made


def _charged(book: Book, digest: str, delta: float, events: Iterable[Event]) -> dict[str, Any]:
    price = [to_json(event) for event in events]
    unseen = max(book.seen.get(digest, 0) - book.reserves(digest), 1)
    return {"digest": digest, "delta": delta, "events": price, "reserves": unseen if price else 0}
