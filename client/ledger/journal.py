"""The ledger's file: hash-chained entries in SQLite that can be appended and nothing else."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from client.ledger import schema
from client.ledger.chain import START, Entry, Head, Row, new_row
from client.ledger.disk import PATIENCE_S, make_private, sync, use_wal
from client.ledger.head import HeadFile
from common.errors import SiteError

_NEWEST = "SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1"


class Journal:
    """Entries in a file.

    Args:
        path: The file, or ':memory:'.
        durable: Whether a committed entry must survive a power cut; then the head file is kept too.

    Raises:
        SiteError: the file is not a ledger of this version.

    Attributes:
        db: The connection.
        lost: Why the file is not what its head file says it was, in words, or None.
        appended: Whether the transaction, or the last one, appended anything.
        head_file: The head file; None for a ledger in memory.
    """

    def __init__(self, path: Path | str, *, durable: bool) -> None:
        self._path, self._durable = path, durable
        self.head_file: HeadFile | None = None
        self.lost: str | None = None
        self.appended = False
        try:
            if str(path) != ":memory:":
                self.head_file = HeadFile.beside(Path(path))
                make_private(Path(path))
            self.db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=PATIENCE_S
            )
            try:
                self._open()
            except BaseException:
                self.db.close()
                raise
        except (sqlite3.DatabaseError, OSError) as error:
            raise _cannot_open(path, error) from None

    def append(self, head: Head, *, at: str, kind: str, body: Mapping[str, Any]) -> Entry:
        """Append an entry after the head; only within a transaction."""
        row, entry = new_row(head, at=at, kind=kind, body=body)
        self.db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row)
        self.appended = True
        return entry

    def rows(self, *, after: int = 0, kind: str | None = None) -> Iterator[Row]:
        """Yield the entries with a larger number than `after`, in order."""
        where, values = ("", ()) if kind is None else (" AND kind = ?", (kind,))
        query = f"SELECT seq, at, kind, body, hash FROM entries WHERE seq > ?{where} ORDER BY seq"
        least = after or -(2**63)  # from the start, what was slipped in before it is read too
        return map(Row._make, self.db.execute(query, (least, *values)))

    def newest(self) -> Head:
        """Return the number and hash of the newest entry."""
        return Head(*(self.db.execute(_NEWEST).fetchone() or START))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep every other writer out until the block ends; what it wrote is then on the disk.

        Within another transaction it is a part of that one.

        Raises:
            SiteError: the disk is full, or another process keeps the file locked.
        """
        if self.db.in_transaction:
            yield
            return
        self.appended, lost = False, self.lost
        try:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                self.lost = lost
                if self.db.in_transaction:  # a full disk may have ended it already
                    self.db.execute("ROLLBACK")
                raise
            if self.appended and self.lost is None:
                self._publish()
        except sqlite3.OperationalError as error:
            raise _cannot_write(self._path, error) from error

    def forgive(self) -> None:
        """Take the file as it is from now on: its losses were charged for."""
        self.lost = None
        self.db.execute(f"PRAGMA application_id = {schema.LIVE}")

    def hash_at(self, seq: int) -> str | None:
        """Return the hash of an entry, or None if there is no such entry."""
        row = self.db.execute("SELECT hash FROM entries WHERE seq = ?", (seq,)).fetchone()
        return START.hash if seq == 0 else row and row[0]

    def backup(self, path: Path) -> Head:
        """Copy the file as it is now, with a head file of its own, and return its head.

        Raises:
            SiteError: the copy cannot be written, or would take the place of the ledger.
        """
        own = self.head_file
        target = HeadFile(path.with_suffix(".head"), None if own is None else own.secret)
        if own is not None and target.path.absolute() == own.path.absolute():
            raise SiteError(
                f"backup {str(path)!r} would take the place of the ledger or its head",
                remedy="give another name, best on another disk",
            )
        draft = path.with_name(f".{path.name}.partial")
        try:
            draft.unlink(missing_ok=True)
            make_private(draft)
            head = _copy(self.db, draft)
            sync(draft)
            draft.replace(path)
            sync(path.parent)
        except (OSError, sqlite3.Error) as error:
            draft.unlink(missing_ok=True)
            raise SiteError(
                f"backup {str(path)!r} cannot be written: {error}",
                remedy="give the path of a file in a folder that exists and has space",
            ) from error
        target.write(head)
        return head

    def _open(self) -> None:
        self.db.text_factory = _text
        with self.transaction():  # two processes may open a new ledger at once
            is_new = schema.prepare(self.db)
            published = None if self.head_file is None else self.head_file.read()
            if is_new and published is None and self._durable and self.head_file is not None:
                sync(self.head_file.path.parent)
                self.head_file.write(START)  # before anybody can append
                published = START
            self.lost = self._loss(published)
        use_wal(self.db)
        self.db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'OFF'}")

    def _loss(self, published: Head | str | None) -> str | None:
        """Say what is wrong between the file and its head file, both read under one lock."""
        newest = self.newest()
        (mark,) = self.db.execute("PRAGMA application_id").fetchone()
        if mark == schema.BACKUP:
            return f"the ledger was restored from a backup that ends with entry {newest.seq}"
        if isinstance(published, str):
            return published
        if published is None:
            is_missing = self._durable and self.head_file is not None and newest.seq > 0
            return "the ledger's head file is missing" if is_missing else None
        if published.seq > newest.seq:
            return (
                f"the ledger ends with entry {newest.seq}, but its head file with {published.seq}"
            )
        if published.hash != self.hash_at(published.seq):
            return f"entry {published.seq} is not the one that the ledger's head file names"
        return None

    def _publish(self) -> None:
        """Write the head file, under the file's lock so that it never goes back."""
        if self.head_file is None or not self._durable:
            return
        self.db.execute("BEGIN IMMEDIATE")
        try:
            self.head_file.write(self.newest())
        finally:
            self.db.execute("ROLLBACK")


def _copy(db: sqlite3.Connection, path: Path) -> Head:
    """Copy a database into one file, marked as a backup, and return its newest entry."""
    copy = sqlite3.connect(path, isolation_level=None)
    try:
        db.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # nothing beside the one file
        copy.execute(f"PRAGMA application_id = {schema.BACKUP}")
        return Head(*(copy.execute(_NEWEST).fetchone() or START))
    finally:
        copy.close()


def _text(data: bytes) -> str:
    """Read whatever the file holds as text: what is no UTF-8 was not written here."""
    return data.decode(errors="surrogateescape")


def _cannot_open(path: Path | str, error: Exception) -> SiteError:
    is_locked = "locked" in str(error)
    return SiteError(
        f"ledger {str(path)!r} cannot be opened: {error}",
        remedy=(
            "end the other process that uses it"
            if is_locked
            else "restore the ledger from a backup; never start with an empty one"
        ),
    )


def _cannot_write(path: Path | str, error: sqlite3.OperationalError) -> SiteError:
    is_locked = "locked" in str(error)
    return SiteError(
        f"ledger {str(path)!r} cannot be written: {error}",
        remedy=(
            "end the other process that uses it, and ask again"
            if is_locked
            else "free space on the disk, or mend it; nothing was computed, so ask again then"
        ),
    )
