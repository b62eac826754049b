"""The ledger: every release about the site's patients, its price, and whether it was answered.

A price is reserved, durably, before any patient is read, and is never given back: a crash between
reserve and commit counts as spent. The reply is stored in the same transaction as the commit, so a
request that is asked again after a lost answer costs nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from common.errors import SiteError
from common.privacy.events import Event, from_json, merge, to_json

_SCHEMA_VERSION = 1
_SCHEMA = (
    """CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    digest TEXT NOT NULL,
    run TEXT NOT NULL,
    phase TEXT NOT NULL,
    round INTEGER NOT NULL,
    delta REAL NOT NULL,
    events TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'committed')),
    reply BLOB
)""",
    "CREATE INDEX entries_by_request ON entries (digest, run, phase, round)",
)


class Key(NamedTuple):
    """What a release answers: the same key asked twice gets the same reply."""

    digest: str
    run: str
    phase: str
    round: int


@dataclass(frozen=True)
class Account:
    """What one study has cost so far, answered or not."""

    digest: str
    delta: float
    events: tuple[Event, ...] = ()
    runs: frozenset[str] = field(default_factory=frozenset)
    reserves: int = 0


class Ledger:
    """A site's ledger in SQLite.

    Args:
        path: The file, or ':memory:' for a ledger that ends with the process.
        durable: Whether an entry must survive a power cut. A simulation only asks that it survives
            the process, which is many times faster.

    Raises:
        SiteError: the file is not a ledger of this version.
    """

    def __init__(self, path: Path | str, *, durable: bool = True) -> None:
        try:
            self._db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=30.0
            )
            with self._closed_on_error():
                self._migrate()
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        except sqlite3.DatabaseError as error:
            raise SiteError(
                f"ledger {str(path)!r} cannot be opened: {error}",
                remedy="restore the ledger from a backup; never start with an empty one",
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def reserve(self, key: Key, *, delta: float, events: Iterable[Event]) -> int:
        """Charge a release before it is computed; return the entry's number."""
        text = json.dumps([to_json(e) for e in events])
        with self.transaction():
            cursor = self._db.execute(
                "INSERT INTO entries (at, digest, run, phase, round, delta, events, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 'reserved')",
                (datetime.now(UTC).isoformat(timespec="seconds"), *key, delta, text),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def commit(self, entry: int, key: Key, reply: bytes) -> None:
        """Record the reply of a reserved entry, and drop those of the run's earlier rounds."""
        with self.transaction():
            self._db.execute(
                "UPDATE entries SET state = 'committed', reply = ? WHERE id = ?", (reply, entry)
            )
            self._db.execute(
                "UPDATE entries SET reply = NULL"
                " WHERE digest = ? AND run = ? AND phase = ? AND round < ?",
                key,
            )

    def answered(self, key: Key) -> tuple[bool, bytes | None]:
        """Return whether this key was answered before, and the reply if it is still kept."""
        row = self._db.execute(
            "SELECT reply FROM entries WHERE digest = ? AND run = ? AND phase = ? AND round = ?"
            " AND state = 'committed' ORDER BY id DESC LIMIT 1",
            key,
        ).fetchone()
        return (False, None) if row is None else (True, row[0])

    def accounts(self) -> list[Account]:
        """Return what every study has cost, reserved or committed."""
        # Rounds of a run cost alike, so a long ledger has few different rows.
        query = (
            "SELECT digest, run, events, delta, COUNT(*) FROM entries"
            " GROUP BY digest, run, events, delta ORDER BY MIN(id)"
        )
        rows: dict[str, list[_Row]] = {}
        for digest, *row in self._db.execute(query):
            rows.setdefault(digest, []).append(_Row(*row))
        return [_account(digest, entries) for digest, entries in rows.items()]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep every other writer out until the block ends; what it wrote is then in the file.

        Within another transaction it is a part of that one.
        """
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._db.close()
            raise

    def _migrate(self) -> None:
        with self.transaction():  # two processes may open a new ledger at once
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif version != _SCHEMA_VERSION:
                raise SiteError(
                    f"ledger has version {version}, this program reads version {_SCHEMA_VERSION}",
                    remedy="use the version of grandrounds that wrote it, or a later one",
                )


class _Row(NamedTuple):
    """Entries of one study that are alike."""

    run: str
    events: str
    delta: float
    number: int


def _account(digest: str, rows: list[_Row]) -> Account:
    priced = [row for row in rows if row.events != "[]"]
    events = [
        event
        for row in priced
        for value in json.loads(row.events)
        for event in [from_json(value)] * row.number
    ]
    return Account(
        digest=digest,
        delta=max(row.delta for row in rows),
        events=merge(events),
        runs=frozenset(row.run for row in rows),
        reserves=sum(row.number for row in priced),
    )
