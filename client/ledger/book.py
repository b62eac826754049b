"""What a ledger's entries come to: accounts, answers, who withdrew. A fold over the entries."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

from client.ledger.chain import START, Broken, Entry, Head, Row, read_row
from common.privacy.events import Event, from_json, merge


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


class Answer(NamedTuple):
    """The commit that answered a request: its number and the SHA-256 of the reply, in hex."""

    seq: int
    reply: str


class Book:
    """Everything that can be asked of the entries read so far, each in constant time.

    Attributes:
        head: The newest entry read.
        at: Its time.
        broken: The first entry that does not follow from those before; nothing is read beyond.
        paused: Whether the newest of pause and resume is a pause.
        withdrawn: HMACs of the ids of withdrawn patients.
        cohort: The newest recorded HMAC of the cohort, if any.
        answers: What answered each request, the newest commit where there are several.
        seen: By study, how many reserves the coordinator has seen that are not in the ledger.
        behind: Why the ledger must be reconciled, as an entry says it.
        reconciled: Number of the newest reconciliation; 0 if there was none.
    """

    def __init__(self) -> None:
        self.head: Head = START
        self.at = ""
        self.broken: Broken | None = None
        self.paused = False
        self.withdrawn: set[str] = set()
        self.cohort: str | None = None
        self.answers: dict[Key, Answer] = {}
        self.seen: dict[str, int] = {}
        self.behind: str | None = None
        self.reconciled = 0
        self._requests: dict[Key, str] = {}
        self._open: dict[int, Key] = {}
        self._studies: dict[str, _Tally] = {}

    def read(self, row: Row) -> Entry | None:
        """Take in a row of the file; None, with `broken` set, if it does not follow."""
        if self.broken is None:
            try:
                entry = read_row(self.head, row)
                self.add(entry)
            except Broken as fault:
                self.broken = fault
            else:
                return entry
        return None

    def add(self, entry: Entry) -> None:
        """Take in the next entry.

        Raises:
            Broken: the entry makes no sense after those before it.
        """
        try:
            if entry.kind in _MEANINGS:  # the others are for people to read
                _MEANINGS[entry.kind](self, entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            what = f"entry {entry.seq} is no {entry.kind} that this ledger could have written"
            raise Broken(entry.seq, what) from None
        self.head, self.at = entry.head, entry.at

    def accounts(self) -> list[Account]:
        """Return what every study has cost, reserved or committed."""
        return [tally.account(digest) for digest, tally in self._studies.items()]

    def reserves(self, digest: str) -> int:
        """Return how many priced releases of a study were reserved."""
        return self._studies[digest].reserves if digest in self._studies else 0

    def request(self, key: Key) -> str | None:
        """Return the SHA-256 of the payload with which a key was first asked, or None."""
        return self._requests.get(key)

    def open_reserve(self, seq: int) -> Key | None:
        """Return what a reserve without a commit was made for, or None."""
        return self._open.get(seq)

    def _reserve(self, entry: Entry) -> None:
        body = entry.body
        key = Key(body["digest"], body["run"], body["phase"], body["round"])
        self._open[entry.seq] = key
        self._requests.setdefault(key, body["request"])
        tally = self._tally(key.digest)
        tally.charge(body["events"], body["delta"])
        tally.runs.add(key.run)

    def _commit(self, entry: Entry) -> None:
        key = self._open.pop(entry.body["reserve"])
        self.answers[key] = Answer(entry.seq, entry.body["reply"])

    def _reconciliation(self, entry: Entry) -> None:
        for charge in entry.body["charges"]:
            tally = self._tally(charge["digest"])
            tally.charge(charge["events"], charge["delta"], reserves=charge["reserves"])
        self.seen.clear()
        self.behind, self.reconciled = None, entry.seq

    def _set_behind(self, entry: Entry) -> None:
        self.seen[entry.body["digest"]] = entry.body["seen"]
        self.behind = entry.body["why"]

    def _pause(self, entry: Entry) -> None:
        self.paused = True

    def _resume(self, entry: Entry) -> None:
        self.paused = False

    def _withdrawal(self, entry: Entry) -> None:
        self.withdrawn.add(entry.body["patient"])

    def _cohort(self, entry: Entry) -> None:
        self.cohort = entry.body["digest"]

    def _tally(self, digest: str) -> _Tally:
        if digest not in self._studies:
            self._studies[digest] = _Tally()
        return self._studies[digest]


_MEANINGS: dict[str, Callable[[Book, Entry], None]] = {
    "reserve": Book._reserve,
    "commit": Book._commit,
    "reconciliation": Book._reconciliation,
    "behind": Book._set_behind,
    "pause": Book._pause,
    "resume": Book._resume,
    "withdrawal": Book._withdrawal,
    "cohort": Book._cohort,
}


class _Tally:
    """One study's charges; rounds of a run cost alike, so few of them differ."""

    def __init__(self) -> None:
        self.delta = 0.0
        self.runs: set[str] = set()
        self.reserves = 0
        self._charges: dict[str, int] = {}
        self._account: Account | None = None

    def charge(
        self, events: list[Mapping[str, Any]], delta: float, *, reserves: int | None = None
    ) -> None:
        self._account = None
        self.delta = max(self.delta, delta)
        self.reserves += (1 if events else 0) if reserves is None else reserves
        if events:
            text = json.dumps(events)
            self._charges[text] = self._charges.get(text, 0) + 1

    def account(self, digest: str) -> Account:
        if self._account is None:
            events = (
                replace(event, count=event.count * number)
                for text, number in self._charges.items()
                for event in _events(text)
            )
            self._account = Account(
                digest=digest,
                delta=self.delta,
                events=merge(events),
                runs=frozenset(self.runs),
                reserves=self.reserves,
            )
        return self._account


@lru_cache(maxsize=256)
def _events(text: str) -> tuple[Event, ...]:
    """Parse a price when it is asked for: one that cannot be read stops releases, not opening."""
    return tuple(from_json(value) for value in json.loads(text))
