"""A full disk, a clock set back, a flood, several threads: nothing is lost or undercounted."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import pytest

from client.ledger import Account, Key, Ledger
from client.ledger.disk import use_wal
from client.ledger.throttle import Throttle
from common.errors import SiteError, is_disk_full
from common.privacy.events import gaussian

TRAIN = gaussian(sigma=2.0, count=5, part="train")
A = "a" * 64
NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(Ledger(path)) as ledger:
        yield ledger


def key(number: int = 1) -> Key:
    return Key(A, "main", "train", number)


def reserve(ledger: Ledger, number: int = 1) -> int:
    return ledger.reserve(key(number), delta=1e-4, events=[TRAIN])


def reserve_many(ledger: Ledger) -> None:
    for number in range(3, 100):
        reserve(ledger, number)


def fill_disk(ledger: Ledger, *, spare: int) -> None:
    """Let the file grow by that many pages of 4 KiB and no more, as on a full disk."""
    db = ledger._journal.db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + spare}")


# Full disk


def test_a_full_disk_lets_nothing_be_reserved_and_loses_nothing(ledger: Ledger, path: Path) -> None:
    for number in (1, 2):
        ledger.commit(reserve(ledger, number), key(number), b"reply")
    fill_disk(ledger, spare=0)
    with pytest.raises(SiteError, match="disk is full") as caught:
        reserve_many(ledger)
    assert is_disk_full(caught.value)
    assert "free space" in caught.value.remedy
    reserved = ledger.head.seq - 2
    assert ledger.accounts()[0].reserves == reserved
    with closing(Ledger(path)) as again:
        assert again.verify().ok
        assert again.accounts() == ledger.accounts()
        assert again.answered(key(2)) == (True, b"reply")
        reserve(again, 100)


def test_a_reply_for_which_there_is_no_room_is_not_given_and_its_price_stands(
    ledger: Ledger, path: Path
) -> None:
    entry = reserve(ledger)
    fill_disk(ledger, spare=2)
    with pytest.raises(SiteError, match="disk is full"):
        ledger.commit(entry, key(), bytes(100_000))
    assert ledger.answered(key()) == (False, None)
    assert ledger.accounts()[0].reserves == 1
    assert ledger.verify().ok
    with closing(Ledger(path)) as again:
        again.commit(entry, key(), bytes(100_000))
        assert again.verify().ok


def test_a_head_that_cannot_be_written_stops_the_release_after_it_was_charged(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("client.ledger.head.write_atomic", full)
        with pytest.raises(SiteError, match=r"head.*No space left"):
            reserve(ledger)
    assert ledger.accounts()[0].reserves == 1
    assert ledger.verify().ok  # ahead of its head
    reserve(ledger)
    with closing(Ledger(path)) as again:
        assert again.behind is None
        assert again.accounts()[0].reserves == 2


def test_a_ledger_that_another_process_keeps_locked_says_so(ledger: Ledger, path: Path) -> None:
    ledger._journal.db.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SiteError, match="locked") as caught:
            reserve(ledger)
    assert "other process" in caught.value.remedy
    reserve(ledger)


class Busy:
    """A connection that finds the file locked a few times, as when two open a new one at once."""

    def __init__(self, *errors: str) -> None:
        self.errors, self.switched = list(errors), False

    def execute(self, statement: str) -> None:
        if self.errors:
            raise sqlite3.OperationalError(self.errors.pop(0))
        self.switched = True


def test_opening_waits_while_another_switches_a_new_file_to_its_log() -> None:
    # Break it once: switch without trying again.
    busy = Busy("database is locked", "database is locked")
    use_wal(cast(sqlite3.Connection, busy))
    assert busy.switched


def test_opening_does_not_wait_for_what_will_not_pass() -> None:
    broken = Busy("disk I/O error")
    with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
        use_wal(cast(sqlite3.Connection, broken))
    assert not broken.switched


def test_the_file_is_opened_by_sqlite_alone(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Closing it elsewhere would drop the locks of this process's other connections (POSIX).
    opened, system_open = [], os.open

    def watched(name: str | Path, *arguments: int, **named: int) -> int:
        opened.append(Path(name).name)
        return system_open(name, *arguments, **named)

    monkeypatch.setattr(os, "open", watched)
    with closing(Ledger(path)) as again:
        reserve(again)
    assert path.name not in opened
    assert ledger.accounts()[0].reserves == 1


# Clock


def test_a_clock_set_back_is_noted_and_the_order_stays(path: Path) -> None:
    times = iter([NOON, NOON - timedelta(hours=2), NOON - timedelta(hours=1)])
    with closing(Ledger(path, now=lambda: next(times))) as ledger:
        for kind in ("pause", "resume", "pause"):
            ledger.record(kind, {})
        assert ledger.paused()
        assert ledger.verify().ok
        entries = ledger.entries()
    assert [e.seq for e in entries] == [1, 2, 3]
    assert entries[0].at > entries[2].at > entries[1].at
    assert [e.body.get("clock_back_s") for e in entries] == [None, 7200, None]


def test_times_are_utc_whatever_the_clocks_zone(path: Path) -> None:
    now = NOON.astimezone(ZoneInfo("Asia/Tokyo"))
    with closing(Ledger(path, now=lambda: now)) as ledger:
        ledger.record("pause", {})
        assert ledger.entries()[0].at == "2030-06-01T12:00:00+00:00"


# Floods


def test_a_throttle_lets_a_burst_through_and_then_one_at_a_time_with_what_it_dropped() -> None:
    seconds = 0.0
    throttle = Throttle(burst=2, every_s=60.0, clock=lambda: seconds)
    assert [throttle.admit() for _ in range(5)] == [0, 0, None, None, None]
    seconds = 59.0
    assert throttle.admit() is None
    seconds = 61.0
    assert [throttle.admit(), throttle.admit()] == [4, None]
    seconds = 1e6
    assert [throttle.admit() for _ in range(3)] == [1, 0, None]


def test_a_flood_of_refusals_does_not_fill_the_ledger(path: Path) -> None:
    # Break it once: record each.
    with closing(Ledger(path, durable=False)) as ledger:
        for _ in range(1000):
            ledger.record("refusal", {"reason": "malformed request"})
        assert 20 <= len(ledger.entries("refusal")) < 30
        assert ledger.verify().ok
        ledger.record("pause", {})  # what the hospital itself does is never left out
        assert ledger.paused()


# What is recorded


def test_pauses_withdrawals_and_cohorts_are_known_after_a_restart(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        assert (ledger.paused(), ledger.withdrawn(), ledger.cohort_digest()) == (
            False,
            frozenset(),
            None,
        )
        ledger.record("pause", {})
        for patient in ("aa", "bb"):
            ledger.record("withdrawal", {"patient": patient})
        for digest in ("11", "22"):
            ledger.record("cohort", {"digest": digest})
    with closing(Ledger(path)) as ledger:
        assert (ledger.paused(), ledger.withdrawn(), ledger.cohort_digest()) == (
            True,
            {"aa", "bb"},
            "22",
        )
        assert [e.body["patient"] for e in ledger.entries("withdrawal")] == ["aa", "bb"]
        assert [e.kind for e in ledger.entries()] == [
            *("pause", "withdrawal", "withdrawal", "cohort", "cohort")
        ]
        ledger.record("resume", {})
        assert not ledger.paused()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("reserve", {}),
        ("commit", {}),
        ("behind", {}),
        ("reconciliation", {}),
        ("rumour", {}),
        ("withdrawal", {}),
        ("withdrawal", {"patient": 17}),
        ("cohort", {"digest": None}),
        ("pause", {"factor": float("nan")}),
    ],
)
def test_an_entry_that_is_not_of_its_kind_is_not_recorded(
    ledger: Ledger, kind: str, body: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"use one of|holds no text|Out of range"):
        ledger.record(kind, body)
    assert ledger.entries() == []


def test_a_commit_belongs_to_its_own_open_reserve(ledger: Ledger) -> None:
    entry = reserve(ledger)
    for number, name in ((entry + 1, key()), (entry, key(2))):
        with pytest.raises(ValueError, match="no open reserve"):
            ledger.commit(number, name, b"")
    ledger.commit(entry, key(), b"")
    with pytest.raises(ValueError, match="no open reserve"):
        ledger.commit(entry, key(), b"")
    assert ledger.verify().entries == 2


# Threads


def test_threads_that_share_a_ledger_never_join_each_others_transaction(ledger: Ledger) -> None:
    # Break it once: no lock; then the second thread's entry goes away with the first's rollback.
    inside, done = threading.Event(), threading.Event()

    def record() -> None:
        inside.wait(10)
        ledger.record("pause", {})
        done.set()

    def interrupted() -> None:
        with ledger.transaction():
            reserve(ledger)
            inside.set()
            assert not done.wait(0.2)
            raise KeyboardInterrupt

    other = threading.Thread(target=record)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    other.join(10)
    assert [e.kind for e in ledger.entries()] == ["pause"]
    assert ledger.paused()


def test_what_another_connection_writes_is_seen_at_once(ledger: Ledger, path: Path) -> None:
    with closing(Ledger(path)) as other:
        entry = reserve(other)
        assert ledger.accounts() == [Account(A, 1e-4, (TRAIN,), frozenset({"main"}), 1)]
        other.commit(entry, key(), b"reply")
        assert ledger.answered(key()) == (True, b"reply")
        reserve(ledger, 2)
        assert other.accounts()[0].reserves == 2
        assert other.verify().ok
