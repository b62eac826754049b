"""The replies that are kept, so that a request asked again is answered with the same bytes."""

from __future__ import annotations

import hashlib
import sqlite3

from client.ledger.book import Answer, Book, Key
from common.errors import SiteError

_ALL = "SELECT digest, run, phase, round, entry, reply FROM replies"
_PIECE = 2**20
_NAMED = "digest = ? AND run = ? AND phase = ? AND round"


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hex.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def keep(db: sqlite3.Connection, key: Key, *, entry: int, reply: bytes) -> None:
    """Keep the reply that an entry commits, and drop those of the run's earlier rounds."""
    row = (*key, entry, len(reply))
    statement = "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, zeroblob(?))"
    made = db.execute(statement, row).lastrowid
    assert made is not None
    # Bound as a value, SQLite would copy a large reply twice.
    with db.blobopen("replies", "reply", made) as blob:
        for start in range(0, len(reply), _PIECE):
            blob.write(reply[start : start + _PIECE])
    db.execute(f"DELETE FROM replies WHERE {_NAMED} < ?", key)


def kept(db: sqlite3.Connection, key: Key, answer: Answer) -> bytes | None:
    """Return the reply of an answer, or None if it was dropped.

    Raises:
        SiteError: the reply is not the one that was committed.
    """
    row = db.execute(f"SELECT reply FROM replies WHERE {_NAMED} = ?", key).fetchone()
    if row is None:
        return None
    if not _is_of(row[0], answer):
        raise SiteError(
            f"the reply of entry {answer.seq} was edited, and is not sent",
            remedy="find out who writes to the ledger, then restore it from a backup",
        )
    return bytes(row[0])


def wrong_reply(db: sqlite3.Connection, book: Book) -> tuple[int, str] | None:
    """Find a reply that is not the one committed, or the lack of one that must be kept."""
    wrong: list[tuple[int, str]] = []
    found = set()
    for *name, entry, reply in db.execute(_ALL):
        key = Key(*name)
        found.add(key)
        answer = book.answers.get(key)
        if answer is None:
            wrong.append((entry, f"a reply is kept for entry {entry}, which committed none"))
        elif entry != answer.seq or not _is_of(reply, answer):
            wrong.append((answer.seq, f"the reply of entry {answer.seq} was edited"))
    latest: dict[tuple[str, ...], int] = {}
    for key, answer in sorted(book.answers.items(), key=lambda item: -item[1].seq):
        run = (key.digest, key.run, key.phase)
        if key not in found and key.round >= latest.get(run, key.round):
            wrong.append((answer.seq, f"the reply of entry {answer.seq} is missing"))
        latest[run] = max(latest.get(run, key.round), key.round)
    return min(wrong, default=None)


def _is_of(reply: object, answer: Answer) -> bool:
    return isinstance(reply, bytes) and sha256(reply) == answer.reply
