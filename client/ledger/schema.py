"""The tables of a ledger, and which version of them a file holds."""

from __future__ import annotations

import sqlite3

from common.errors import SiteError

VERSION = 2
LIVE, BACKUP = 0x47524C31, 0x47524C42  # SQLite's application_id: a restored backup says so
_TABLES = (
    """CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    hash TEXT NOT NULL
)""",
    """CREATE TABLE replies (
    digest TEXT NOT NULL,
    run TEXT NOT NULL,
    phase TEXT NOT NULL,
    round INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    reply BLOB NOT NULL,
    PRIMARY KEY (digest, run, phase, round)
)""",
    """CREATE TRIGGER entries_are_never_edited BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER entries_are_never_removed BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    # INSERT OR REPLACE removes a row without asking the trigger above.
    """CREATE TRIGGER entries_are_appended BEFORE INSERT ON entries
    WHEN NEW.seq IS NOT (SELECT COALESCE(MAX(seq), 0) + 1 FROM entries)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)


def prepare(db: sqlite3.Connection) -> bool:
    """Make the tables in a new file, and tell whether it was one; only within a transaction.

    Raises:
        SiteError: the file holds another version.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in _TABLES:
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {LIVE}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        return True
    if version == VERSION:
        return False
    raise SiteError(
        f"ledger has version {version}, this program reads version {VERSION}",
        remedy=(
            "use the version of grandrounds that wrote it, or a later one"
            if version > VERSION
            else "an earlier grandrounds wrote it: finish its runs with that one, and give this "
            "one a new folder"
        ),
    )
