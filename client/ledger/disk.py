"""What the ledger asks of the disk, and of SQLite about it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import time
from pathlib import Path

PATIENCE_S = 30.0  # with others that have the file locked


def make_private(path: Path) -> None:
    """Create the file, if there is none, so that its owner alone can read it from the start.

    The file itself is never opened here: closing it would drop the locks that another connection of
    this process has on it, as POSIX has it.
    """
    if path.exists():
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.close(handle)
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()


def use_wal(db: sqlite3.Connection) -> None:
    """Switch to a write-ahead log; SQLite does not wait here if two do so at once."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
