"""The ledger: what was charged stays charged, whoever dies and whoever else writes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import client.ledger.store
from client.ledger import Account, Key, Ledger
from common.errors import GrandroundsError, SiteError
from common.privacy.events import Event, gaussian, merge

TRAIN = gaussian(sigma=2.0, count=5, part="train")
HOLDOUT = gaussian(sigma=3.0, count=1, part="holdout")
A, B = "a" * 64, "b" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(path)
    yield ledger
    ledger.close()


def key(number: int = 1, *, digest: str = A, run: str = "main", phase: str = "train") -> Key:
    return Key(digest, run, phase, number)


def release(ledger: Ledger, key: Key, reply: bytes, *events: Event, delta: float = 1e-4) -> None:
    ledger.commit(ledger.reserve(key, delta=delta, events=events), key, reply)


def test_a_reserve_is_charged_but_is_no_answer(ledger: Ledger) -> None:
    ledger.reserve(key(), delta=1e-4, events=[TRAIN, HOLDOUT])
    assert ledger.answered(key()) == (False, None)
    assert ledger.accounts() == [
        Account(A, 1e-4, merge([TRAIN, HOLDOUT]), frozenset({"main"}), reserves=1)
    ]


def test_a_commit_is_an_answer_and_costs_nothing_more(ledger: Ledger) -> None:
    release(ledger, key(), b"reply", TRAIN)
    assert ledger.answered(key()) == (True, b"reply")
    [account] = ledger.accounts()
    assert (account.events, account.reserves) == ((TRAIN,), 1)


def test_an_empty_reply_is_an_answer_too(ledger: Ledger) -> None:
    release(ledger, key(), b"")
    assert ledger.answered(key()) == (True, b"")


def test_what_was_written_is_there_when_the_file_is_opened_again(path: Path) -> None:
    first = Ledger(path)
    release(first, key(1), b"reply", TRAIN)
    first.reserve(key(2), delta=1e-4, events=[TRAIN])
    first.close()
    again = Ledger(path)
    assert again.answered(key(1)) == (True, b"reply")
    assert again.answered(key(2)) == (False, None)
    [account] = again.accounts()
    assert (account.events[0].count, account.reserves) == (10, 2)
    again.close()


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 0)])
def test_a_sites_ledger_survives_a_power_cut_and_a_simulations_need_not(
    path: Path, durable: bool, level: int
) -> None:
    # SQLite's synchronous: 2 is FULL, a commit waits until the disk has it; 0 is OFF.
    ledger = Ledger(path, durable=durable)
    assert ledger._journal.db.execute("PRAGMA synchronous").fetchone() == (level,)
    ledger.close()


def test_accounts_are_kept_for_each_study_with_its_runs_and_its_largest_delta(
    ledger: Ledger,
) -> None:
    release(ledger, key(0, phase="join"), b"", delta=1e-4)
    release(ledger, key(1), b"", TRAIN, delta=2e-4)
    release(ledger, key(1, run="second"), b"", TRAIN, delta=1e-4)
    release(ledger, key(1, digest=B), b"", HOLDOUT, delta=3e-4)
    first, second = ledger.accounts()
    assert first == Account(A, 2e-4, merge([TRAIN] * 2), frozenset({"main", "second"}), reserves=2)
    assert second == Account(B, 3e-4, (HOLDOUT,), frozenset({"main"}), reserves=1)


def test_a_commit_drops_the_replies_of_earlier_rounds_of_the_same_run_and_phase_only(
    ledger: Ledger,
) -> None:
    others = [key(1, digest=B), key(1, run="second"), key(1, phase="evaluate"), key(3)]
    for k in [key(1), *others, key(2)]:
        release(ledger, k, b"kept")
    assert ledger.answered(key(1)) == (True, None)
    assert all(ledger.answered(k) == (True, b"kept") for k in [*others, key(2)])


def test_an_answer_is_found_under_its_whole_name_only(ledger: Ledger) -> None:
    release(ledger, key(), b"reply")
    for other in [key(2), key(digest=B), key(run="second"), key(phase="evaluate")]:
        assert ledger.answered(other) == (False, None)


def test_a_transaction_that_fails_leaves_nothing_and_does_not_block_the_next(
    ledger: Ledger,
) -> None:
    def interrupted() -> None:
        with ledger.transaction():
            ledger.reserve(key(), delta=1e-4, events=[TRAIN])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ledger.accounts() == []
    ledger.reserve(key(), delta=1e-4, events=[TRAIN])
    assert len(ledger.accounts()) == 1


def test_a_ledger_of_another_version_is_refused(path: Path) -> None:
    Ledger(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(SiteError, match="version 99") as caught:
        Ledger(path)
    assert "later" in caught.value.remedy


@pytest.mark.parametrize("content", [b"patient,age\n1,60\n" * 100, b"SQLite format 3\x00" * 10])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(SiteError, match=r"ledger\.sqlite") as caught:
        Ledger(path)
    assert "never start with an empty one" in caught.value.remedy
    assert path.read_bytes() == content


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="cannot be opened"):
        Ledger(tmp_path / "absent" / "ledger.sqlite")


def test_a_price_that_cannot_be_read_is_no_price(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a later version would write it: the chain holds, the price means nothing here.
    monkeypatch.setattr(client.ledger.store, "to_json", lambda event: {"kind": "laplace"})
    ledger.reserve(key(), delta=1e-4, events=[TRAIN])
    assert ledger.verify().ok
    with pytest.raises(GrandroundsError, match="laplace"):
        ledger.accounts()


_WRITER = """
import sys
from client.ledger import Key, Ledger
from common.privacy.events import gaussian
path, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
ledger = Ledger(path, durable=False)
for number in range(40):
    key = Key("a" * 64, name, "train", number)
    events = [gaussian(sigma=2.0, count=1, part="train")]
    ledger.commit(ledger.reserve(key, delta=1e-4, events=events), key, name.encode())
"""


@pytest.mark.slow
def test_two_processes_that_make_the_ledger_and_write_at_once_lose_nothing(path: Path) -> None:
    # Break it once: make the tables outside a transaction that locks ('already exists').
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), name],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    ledger = Ledger(path)
    [account] = ledger.accounts()
    assert (account.events[0].count, account.reserves) == (80, 80)
    assert ledger.answered(Key(A, "one", "train", 39)) == (True, b"one")
    assert ledger.answered(Key(A, "two", "train", 39)) == (True, b"two")
    ledger.close()
