"""One entry of the ledger, and the hash that binds it to every entry before it."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from common.errors import SiteError

_DOMAIN = b"grandrounds.ledger.entry.2"
NONCE_BYTES = 16


class Head(NamedTuple):
    """The newest entry: its number, and the hash that stands for all entries up to it."""

    seq: int
    hash: str


START = Head(0, "0" * 64)


class Row(NamedTuple):
    """An entry as the file holds it."""

    seq: int
    at: str
    kind: str
    body: str
    hash: str

    def entry(self) -> Entry:
        """Return the entry, without a look at its hash.

        Raises:
            SiteError: its body is not JSON.
        """
        try:
            return Entry(self.seq, self.at, self.kind, json.loads(self.body), self.hash)
        except (ValueError, TypeError, RecursionError):
            raise SiteError(
                f"entry {self.seq} of the ledger cannot be read",
                remedy="see what was changed: grandrounds site log DIR --verify",
            ) from None


@dataclass(frozen=True, slots=True)
class Entry:
    """What happened, and when.

    Attributes:
        seq: Number without gaps, from 1. It is the order; the clock is not.
        at: UTC, ISO 8601.
        kind: reserve, commit, refusal, approval, revocation, withdrawal, pause, resume, cohort,
            delivery, behind or reconciliation.
        body: What the kind needs, with a random `nonce` (hex): the hash of an entry tells nothing
            of what can be guessed.
        hash: SHA-256 in hex over the previous entry's hash and this entry.
    """

    seq: int
    at: str
    kind: str
    body: Mapping[str, Any]
    hash: str

    @property
    def head(self) -> Head:
        """The ledger's head while this entry is the newest."""
        return Head(self.seq, self.hash)


class Broken(Exception):
    """An entry that does not follow from those before it."""

    def __init__(self, seq: int, what: str) -> None:
        super().__init__(what)
        self.seq, self.what = seq, what


def entry_hash(previous: str, seq: int, at: str, kind: str, body: str) -> str:
    """Return the SHA-256, in hex, of an entry; each field goes in with its length before it."""
    digest = hashlib.sha256(_DOMAIN)
    for field in (previous, str(seq), at, kind, body):
        data = field.encode(errors="surrogateescape")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def new_row(head: Head, *, at: str, kind: str, body: Mapping[str, Any]) -> tuple[Row, Entry]:
    """Return the entry that follows the head, as the file holds it and as it is read."""
    content = {**body, "nonce": secrets.token_hex(NONCE_BYTES)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    seq = head.seq + 1
    digest = entry_hash(head.hash, seq, at, kind, text)
    return Row(seq, at, kind, text, digest), Entry(seq, at, kind, content, digest)


def read_row(head: Head, row: Row) -> Entry:
    """Return the entry that a row holds.

    Raises:
        Broken: it does not follow the head, or was edited.
    """
    following = head.seq + 1
    if row.seq > following:
        last = "" if row.seq == following + 1 else f" to {row.seq - 1}"
        raise Broken(following, f"entry {following}{last} is missing")
    if row.seq < following:
        raise Broken(following, f"an entry is numbered {row.seq}")
    if not all(isinstance(field, str) for field in row[1:]):
        raise Broken(row.seq, f"entry {row.seq} holds what is no text")
    if entry_hash(head.hash, row.seq, row.at, row.kind, row.body) != row.hash:
        raise Broken(row.seq, f"entry {row.seq} was edited, or the one before it")
    try:
        return row.entry()
    except SiteError:
        raise Broken(row.seq, f"entry {row.seq} is not JSON") from None
