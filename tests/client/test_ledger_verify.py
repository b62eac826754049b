"""Whatever is changed in a ledger's file afterwards is found."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ledger import Key, Ledger
from client.ledger.chain import entry_hash
from common.errors import SiteError
from common.privacy.events import gaussian

TRAIN = gaussian(sigma=2.0, count=5, part="train")
A, B = "a" * 64, "b" * 64


def key(number: int, *, digest: str = A, phase: str = "train") -> Key:
    return Key(digest, "main", phase, number)


def release(ledger: Ledger, asked: Key, reply: bytes = b"reply") -> None:
    entry = ledger.reserve(asked, delta=1e-4, events=[TRAIN], request="00")
    ledger.commit(entry, asked, reply)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be; what must be on it is tested elsewhere."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a ledger of ten entries, closed."""
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    for number in (1, 2, 3):
        release(ledger, key(number))
    ledger.record("pause", {"by": "ada"})
    ledger.record("withdrawal", {"patient": "0f" * 32})
    ledger.record("resume", {"by": "ada"})
    ledger.reserve(key(4), delta=1e-4, events=[TRAIN])
    ledger.close()
    return path


def tamper(path: Path, *statements: str) -> None:
    """Write to the file as somebody would who knows SQLite: without the triggers."""
    with closing(sqlite3.connect(path)) as db:
        triggers = db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
        db.commit()


def verdict(path: Path) -> tuple[bool, int | None]:
    with closing(Ledger(path)) as ledger:
        found = ledger.verify()
        assert found.ok == (found.what == "")
        return found.ok, found.first_bad


def test_a_ledger_that_nobody_touched_verifies(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        found = ledger.verify()
        assert (found.ok, found.entries, found.first_bad, found.what) == (True, 10, None, "")
        assert ledger.behind is None


def test_an_empty_ledger_verifies(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        assert ledger.verify().ok
        assert ledger.head == (0, "0" * 64)


SWAP = (
    "UPDATE entries SET seq = -3 WHERE seq = 3",
    "UPDATE entries SET seq = 3 WHERE seq = 5",
    "UPDATE entries SET seq = 5 WHERE seq = -3",
)
COPY = "INSERT INTO entries SELECT 11, at, kind, body, hash FROM entries WHERE seq = 3"
SHIFT = tuple(f"UPDATE entries SET seq = {n - 1} WHERE seq = {n}" for n in range(5, 11))


@pytest.mark.parametrize(
    ("statements", "first_bad"),
    [
        (["UPDATE entries SET body = replace(body, '5', '1') WHERE seq = 5"], 5),
        (["UPDATE entries SET at = '2020-01-01T00:00:00+00:00' WHERE seq = 4"], 4),
        (["UPDATE entries SET kind = 'refusal' WHERE seq = 3"], 3),
        (["UPDATE entries SET hash = '00' WHERE seq = 2"], 2),
        (["UPDATE entries SET body = CAST(body AS BLOB) WHERE seq = 6"], 6),
        (["UPDATE entries SET body = x'ff' WHERE seq = 6"], 6),
        (["UPDATE entries SET body = CAST(x'ff' AS TEXT) WHERE seq = 6"], 6),
        (["DELETE FROM entries WHERE seq = 1"], 1),
        (["DELETE FROM entries WHERE seq = 4"], 4),
        (["DELETE FROM entries WHERE seq = 4", *SHIFT], 4),
        (["DELETE FROM entries WHERE seq > 8"], 9),
        (["DELETE FROM entries"], 1),
        (SWAP, 3),
        ([COPY], 11),
        (["INSERT INTO entries VALUES (0, 'x', 'pause', '{}', '00')"], 1),
    ],
    ids=[
        *("price", "time", "kind", "hash", "type", "bytes", "no-utf8"),
        *("first-removed", "removed", "removed-and-renumbered", "tail-removed", "all-removed"),
        *("swapped", "copied", "before-the-first"),
    ],
)
def test_every_change_of_the_entries_is_found_and_stops_releases(
    path: Path, statements: list[str], first_bad: int
) -> None:
    # Break it once: leave a field out of the hash, or the head file out of verify.
    tamper(path, *statements)
    assert verdict(path) == (False, first_bad)
    with closing(Ledger(path)) as ledger:
        assert ledger.behind is not None
        with pytest.raises(SiteError, match="reconciled first"):
            ledger.reserve(key(5), delta=1e-4, events=[TRAIN])


def test_an_entry_edited_with_a_hash_that_fits_is_found_by_the_next(path: Path) -> None:
    # Break it once: leave the previous entry's hash out of the hash.
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT hash, at, kind, body FROM entries WHERE seq IN (4, 5) ORDER BY seq"
        (previous, *_), (_, at, kind, body) = db.execute(query).fetchall()
    edited = body.replace('"count":5', '"count":1')
    assert edited != body
    digest = entry_hash(previous, 5, at, kind, edited)
    tamper(path, f"UPDATE entries SET body = '{edited}', hash = '{digest}' WHERE seq = 5")
    assert verdict(path) == (False, 6)


def rewrite(path: Path, *, after: int) -> None:
    """Put a pause in place of every entry after one, with hashes that fit, head file untouched."""
    with closing(sqlite3.connect(path)) as db:
        (previous,) = db.execute("SELECT hash FROM entries WHERE seq = ?", (after,)).fetchone()
    rows = []
    for seq in range(after + 1, 11):
        at, body = "2030-01-01T00:00:00+00:00", '{"nonce":""}'
        previous = entry_hash(previous, seq, at, "pause", body)
        rows.append(f"({seq}, '{at}', 'pause', '{body}', '{previous}')")
    removed = f"DELETE FROM entries WHERE seq > {after}"
    forgotten = "DELETE FROM replies WHERE round > 2"
    tamper(path, removed, forgotten, f"INSERT INTO entries VALUES {', '.join(rows)}")


def test_a_tail_written_anew_with_hashes_that_fit_is_found_by_the_head_file(path: Path) -> None:
    rewrite(path, after=4)
    assert verdict(path) == (False, 10)


@pytest.mark.parametrize(
    ("statement", "first_bad"),
    [
        ("UPDATE replies SET reply = x'00'", 6),
        ("UPDATE replies SET reply = 'reply'", 6),
        ("UPDATE replies SET entry = 4", 6),
        ("UPDATE replies SET round = 4", 6),
        ("DELETE FROM replies", 6),
    ],
    ids=["edited", "type", "entry", "round", "removed"],
)
def test_every_change_of_a_reply_is_found(path: Path, statement: str, first_bad: int) -> None:
    tamper(path, statement)
    assert verdict(path) == (False, first_bad)


def test_an_edited_reply_is_never_given(path: Path) -> None:
    tamper(path, "UPDATE replies SET reply = x'00'")
    with closing(Ledger(path)) as ledger, pytest.raises(SiteError, match="edited"):
        ledger.answered(key(3))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = '{}' WHERE seq = 1",
        "DELETE FROM entries WHERE seq = 10",
        "INSERT OR REPLACE INTO entries VALUES (1, '', '', '', '')",
        "INSERT INTO entries VALUES (12, '', '', '', '')",
    ],
)
def test_the_file_itself_refuses_anything_but_the_next_entry(path: Path, statement: str) -> None:
    with (
        closing(sqlite3.connect(path)) as db,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        db.execute(statement)


def test_nothing_is_appended_to_a_ledger_that_was_edited(path: Path) -> None:
    tamper(path, "UPDATE entries SET body = '{}' WHERE seq = 2")
    with closing(Ledger(path)) as ledger:
        with pytest.raises(SiteError, match="entry 2 was edited"):
            ledger.record("pause", {})
        with pytest.raises(SiteError, match="cannot be reconciled"):
            ledger.reconcile([], "to see")


def test_an_entry_that_makes_no_sense_is_found_although_its_hash_fits(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        ledger.reserve(key(1), delta=1e-4, events=[TRAIN])
        previous = ledger.head.hash
    body = '{"reply":"00","reserve":7}'
    digest = entry_hash(previous, 2, "t", "commit", body)
    tamper(path, f"INSERT INTO entries VALUES (2, 't', 'commit', '{body}', '{digest}')")
    assert verdict(path) == (False, 2)


def test_two_entries_alike_have_hashes_that_nobody_can_guess(tmp_path: Path) -> None:
    def hash_of_first(name: str) -> str:
        with closing(
            Ledger(tmp_path / name, now=lambda: datetime(2030, 1, 1, tzinfo=UTC))
        ) as ledger:
            ledger.record("pause", {})
            return ledger.head.hash

    assert hash_of_first("one.sqlite") != hash_of_first("two.sqlite")


def test_ten_thousand_entries_verify_in_five_seconds(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.sqlite", durable=False)) as ledger:
        with ledger.transaction():
            for number in range(5000):
                release(ledger, key(number), bytes(1000))
        start = time.process_time()
        found = ledger.verify()
        assert time.process_time() - start < 5
        assert (found.ok, found.entries) == (True, 10_000)


# Any ledger, any single change

Operation = Callable[[Ledger], object]
NUMBERS = st.integers(1, 3)


def operations() -> st.SearchStrategy[Operation]:
    asked = st.builds(
        key, NUMBERS, digest=st.sampled_from([A, B]), phase=st.sampled_from(["train", "evaluate"])
    )
    return st.one_of(
        asked.map(lambda k: lambda ledger: release(ledger, k)),
        asked.map(lambda k: lambda ledger: ledger.reserve(k, delta=1e-4, events=[TRAIN])),
        st.sampled_from(["pause", "resume", "approval"]).map(
            lambda kind: lambda ledger: ledger.record(kind, {"by": "ada"})
        ),
        st.text(max_size=3).map(
            lambda text: lambda ledger: ledger.record("refusal", {"reason": text})
        ),
    )


@st.composite
def change(draw: st.DrawFn, count: int) -> Callable[[sqlite3.Connection], None]:
    seq = draw(st.integers(1, count))
    kind = draw(st.sampled_from(["edit", "remove", "swap"]))
    column = draw(st.sampled_from(["at", "kind", "body", "hash"]))
    place, mask = draw(st.integers(0, 2000)), draw(st.integers(1, 255))
    other = draw(st.integers(1, count))

    def edit(db: sqlite3.Connection) -> None:
        query = f"SELECT CAST({column} AS BLOB) FROM entries WHERE seq = ?"
        data = bytearray(db.execute(query, (seq,)).fetchone()[0])
        data[place % len(data)] ^= mask
        db.execute(
            f"UPDATE entries SET {column} = CAST(? AS TEXT) WHERE seq = ?", (bytes(data), seq)
        )

    def remove(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM entries WHERE seq = ?", (seq,))

    def swap(db: sqlite3.Connection) -> None:
        mate = other if other != seq else seq % count + 1
        if mate == seq:  # a single entry has no mate
            return remove(db)
        for old, new in ((seq, -1), (mate, seq), (-1, mate)):
            db.execute("UPDATE entries SET seq = ? WHERE seq = ?", (new, old))
        return None

    return {"edit": edit, "remove": remove, "swap": swap}[kind]


@settings(max_examples=25, deadline=None)
@given(made=st.lists(operations(), min_size=1, max_size=8), data=st.data())
def test_any_ledger_verifies_and_any_single_change_of_it_is_found(
    made: list[Operation], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        with closing(Ledger(path)) as ledger:
            for operation in made:
                operation(ledger)
            assert ledger.verify().ok
            count = ledger.head.seq
        apply = data.draw(change(count))
        tamper(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            apply(db)
        assert not verdict(path)[0]
