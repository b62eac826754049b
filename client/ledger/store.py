"""The ledger as the gate and the administrator use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.ledger.book import Account, Book, Key
from client.ledger.chain import Entry, Head
from client.ledger.journal import Journal
from client.ledger.receipt import tag_of
from client.ledger.recovery import Charge, behind_error, charges, sighting
from client.ledger.replies import keep, kept, sha256
from client.ledger.throttle import Throttle
from client.ledger.verify import Verdict, verify
from common.errors import SiteError
from common.privacy.events import Event, to_json

RECORDED = (
    "refusal",
    "approval",
    "revocation",
    "withdrawal",
    "pause",
    "resume",
    "cohort",
    "delivery",
)
"""Kinds of entries that `record` appends; the others have a method of their own."""

_REFUSALS_AT_ONCE, _REFUSAL_EVERY_S = 20, 60.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """A site's ledger in SQLite. Several threads and several processes may use it at once.

    Args:
        path: The file, or ':memory:' for a ledger that ends with the process.
        durable: Whether an entry must survive a power cut. A simulation only asks that it survives
            the process, which is many times faster; it keeps no head file.
        now: The clock, which may go back: the order of entries is their number.

    Raises:
        SiteError: the file is not a ledger of this version.
    """

    def __init__(
        self, path: Path | str, *, durable: bool = True, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._now = now
        self._lock = threading.RLock()
        self._refusals = Throttle(burst=_REFUSALS_AT_ONCE, every_s=_REFUSAL_EVERY_S)
        self._book = Book()
        self._journal = Journal(path, durable=durable)
        self._opened = self._journal.newest().seq

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._journal.db.close()

    # Releases

    def reserve(self, key: Key, *, delta: float, events: Iterable[Event], request: str = "") -> int:
        """Charge a release before it is computed; return the entry's number.

        Args:
            key: What it answers.
            delta: The study's delta.
            events: The price; empty for what no patient enters.
            request: SHA-256 in hex of the request's payload.

        Raises:
            Behind: the ledger must be reconciled first.
            SiteError: the entry cannot be written; then nothing may be computed.
        """
        price = [to_json(event) for event in events]
        with self.transaction():
            if self.behind is not None:
                raise behind_error(self.behind)
            body = {**key._asdict(), "delta": delta, "events": price, "request": request}
            return self._append("reserve", body).seq

    def commit(self, entry: int, key: Key, reply: bytes) -> None:
        """Record the reply of a reserved entry, and drop those of the run's earlier rounds."""
        with self.transaction():
            if self._current().open_reserve(entry) != key:
                raise ValueError(f"entry {entry} is no open reserve of {key}")
            body = {**key._asdict(), "reserve": entry, "reply": sha256(reply)}
            committed = self._append("commit", body)
            keep(self._journal.db, key, entry=committed.seq, reply=reply)

    def answered(self, key: Key) -> tuple[bool, bytes | None]:
        """Return whether this key was answered before, and the reply if it is still kept.

        Raises:
            SiteError: the reply is not the one that was committed.
        """
        with self._lock:
            answer = self._current().answers.get(key)
            if answer is None:
                return False, None
            return True, kept(self._journal.db, key, answer)

    def request(self, key: Key) -> str | None:
        """Return the SHA-256 of the payload with which a key was first reserved, or None."""
        with self._lock:
            return self._current().request(key)

    def accounts(self) -> list[Account]:
        """Return what every study has cost, reserved or committed."""
        with self._lock:
            return self._current().accounts()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep every other writer out until the block ends; what it wrote is then in the file.

        Within another transaction it is a part of that one.

        Raises:
            SiteError: the file cannot be written.
        """
        with self._lock:
            try:
                with self._journal.transaction():
                    yield
            except BaseException:
                if self._journal.appended:  # and the book may hold it: read anew
                    self._book = Book()
                raise

    # Everything else that is worth an entry

    def record(self, kind: str, body: Mapping[str, Any]) -> int:
        """Append an entry that is no release; return its number.

        Of refusals 20 are recorded at once and then one a minute, with the count `unrecorded` of
        those left out: a flood of them must not fill the disk.

        Args:
            kind: One of `RECORDED`.
            body: JSON values; a `withdrawal` holds `patient`, an HMAC of the id, and a `cohort`
                holds `digest`, an HMAC of its manifest.

        Returns:
            The entry's number; that of the newest entry for a refusal that was left out.
        """
        if kind not in RECORDED:
            raise ValueError(f"kind is {kind!r}; use one of {RECORDED}")
        needed = {"withdrawal": "patient", "cohort": "digest"}.get(kind)
        if needed is not None and not isinstance(body.get(needed), str):
            raise ValueError(f"a {kind} holds no text {needed!r}")
        with self.transaction():
            if kind == "refusal":
                left_out = self._refusals.admit()
                if left_out is None:
                    return self.head.seq
                body = {**body, "unrecorded": left_out} if left_out else body
            return self._append(kind, body).seq

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Return all entries, or those of one kind, oldest first; see `verify` for their chain."""
        with self._lock:
            return [row.entry() for row in self._journal.rows(kind=kind)]

    def paused(self) -> bool:
        """Tell whether the site has paused."""
        with self._lock:
            return self._current().paused

    def withdrawn(self) -> frozenset[str]:
        """Return the HMACs of the ids of withdrawn patients."""
        with self._lock:
            return frozenset(self._current().withdrawn)

    def cohort_digest(self) -> str | None:
        """Return the HMAC of the cohort that was recorded last, or None."""
        with self._lock:
            return self._current().cohort

    # Whether the file is what it was

    @property
    def head(self) -> Head:
        """Number and hash of the newest entry."""
        with self._lock:
            return self._journal.newest()

    @property
    def behind(self) -> str | None:
        """Why the ledger must be reconciled before the next release, in words, or None."""
        with self._lock:
            book = self._current()
            if book.reconciled > self._opened:  # by another process
                self._journal.lost = None
            broken = None if book.broken is None else book.broken.what
            return broken or self._journal.lost or book.behind

    def tag(self, *, site: str, digest: str, reserves: int) -> str | None:
        """Return the tag of a receipt; None without a secret, which a simulated site has not."""
        head_file = self._journal.head_file
        if head_file is None or head_file.secret is None:
            return None
        return tag_of(head_file.secret, site=site, digest=digest, reserves=reserves)

    def check_seen(self, digest: str, seen: int) -> None:
        """Hear how many reserves of a study the coordinator has seen here, by a receipt's tag.

        More than the ledger holds means that the ledger was restored from an old backup or begun
        anew: it is behind from then on, also after a restart.
        """
        with self.transaction():
            book = self._current()
            body = sighting(book, digest, seen)
            if body is not None and book.broken is None:
                self._append("behind", body)

    def reconcile(self, charge: Iterable[Charge], why: str, *, by: str = "") -> int:
        """Charge what may have been released without an entry, so that releases may go on.

        Args:
            charge: Each study that may have gone on, best with its whole plan: what was lost is
                not known, and the price must not be too small.
            why: What happened, in the administrator's words.
            by: Who reconciles.

        Returns:
            The entry's number.

        Raises:
            SiteError: nothing is behind, entries were edited, or a study that the coordinator has
                seen more of is not charged.
        """
        with self.transaction():
            book, behind = self._current(), self.behind
            made = charges(book, charge, behind=behind)
            self._journal.forgive()
            body = {"charges": made, "why": why, "by": by, "behind": behind}
            return self._append("reconciliation", body).seq

    def verify(self) -> Verdict:
        """Find any entry that was edited, removed, reordered or slipped in, and any edited reply.

        A removed tail is found by the head file.
        """
        with self._lock:
            return verify(self._journal)

    def backup(self, path: Path) -> Head:
        """Copy the ledger and its head while it is in use; return the copy's head.

        A copy that takes the ledger's place later is behind until it is reconciled.

        Raises:
            SiteError: the copy cannot be written.
        """
        with self._lock:
            return self._journal.backup(path)

    def _current(self) -> Book:
        """Return the book with every entry in it, whoever wrote it."""
        if self._book.broken is None:
            for row in self._journal.rows(after=self._book.head.seq):
                if self._book.read(row) is None:
                    break
        return self._book

    def _append(self, kind: str, body: Mapping[str, Any]) -> Entry:
        book = self._current()
        if book.broken is not None:
            raise SiteError(
                f"the ledger takes no entry: {book.broken.what}",
                remedy="find out who writes to it, then restore it from a backup",
            )
        at = self._now().astimezone(UTC).isoformat(timespec="seconds")
        back = _seconds_back(book.at, at)
        noted = {"clock_back_s": back} if back else {}
        entry = self._journal.append(book.head, at=at, kind=kind, body={**body, **noted})
        book.add(entry)
        return entry


def _seconds_back(before: str, now: str) -> int:
    """Return by how much the clock went back between two entries."""
    if now >= before:  # times of one form and zone sort as text
        return 0
    return int((datetime.fromisoformat(before) - datetime.fromisoformat(now)).total_seconds())
