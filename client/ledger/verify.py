"""Reading a ledger from the first entry to the last, to find whatever was changed since."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from client.ledger.book import Book
from client.ledger.chain import Head
from client.ledger.journal import Journal
from client.ledger.replies import wrong_reply


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        ok: Whether nothing is wrong.
        entries: How many entries follow one from another, from the first on.
        first_bad: Number of the first entry that does not, or that a wrong reply belongs to; None
            where no single entry is to blame.
        what: What is wrong, in words; empty if nothing.
    """

    ok: bool
    entries: int
    first_bad: int | None = None
    what: str = ""


def verify(journal: Journal) -> Verdict:
    """Read everything: the chain of entries, the head file, the replies that are kept."""
    published = None if journal.head_file is None else journal.head_file.read()
    book = Book()
    try:
        for row in journal.rows():
            if book.read(row) is None:
                break
        count = book.head.seq
        if book.broken is not None:
            return Verdict(False, count, book.broken.seq, book.broken.what)
        wrong = _tail(journal, published, count) or wrong_reply(journal.db, book)
    except sqlite3.DatabaseError as error:
        return Verdict(False, book.head.seq, book.head.seq + 1, f"the file is damaged: {error}")
    return Verdict(True, count) if wrong is None else Verdict(False, count, *wrong)


def _tail(
    journal: Journal, published: Head | str | None, count: int
) -> tuple[int | None, str] | None:
    if published is None or isinstance(published, str):
        what = published or journal.lost
        return None if what is None else (None, what)
    if published.seq > count:
        last = "" if published.seq == count + 1 else f" to {published.seq}"
        return count + 1, f"entry {count + 1}{last} is missing: the head file names it"
    if published.hash != journal.hash_at(published.seq):
        return published.seq, f"entry {published.seq} is not the one that the head file names"
    return None
