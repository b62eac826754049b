"""The run store: what was written is what is read, however often a round is repeated."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import RunError, is_disk_full
from server.store import Introduction, Receipt, Reply, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def row(
    site: str,
    number: int,
    phase: str = "train",
    status: str = "ok",
    reason: str = "",
    epsilon: float | None = None,
    reserves: int | None = None,
    norm: float | None = None,
    fingerprint: str = "",
) -> dict[str, object]:
    return {
        "job": "main",
        "round": number,
        "phase": phase,
        "site": site,
        "status": status,
        "reason": reason,
        "epsilon": epsilon,
        "reserves": reserves,
        "norm": norm,
        "fingerprint": fingerprint,
        "tag": None,
    }


def test_a_job_starts_ends_and_starts_again(store: Store) -> None:
    assert store.job("main") is None
    store.start("main", digest="d" * 64, code="/code")
    expected = {
        "job": "main",
        "digest": "d" * 64,
        "status": "running",
        "message": "",
        "remedy": "",
        "code": "/code",
        "remark": "",
    }
    assert store.job("main") == expected
    store.end("main", status="failed", message="disk full", remedy="free some")
    ended = {"status": "failed", "message": "disk full", "remedy": "free some"}
    assert store.job("main") == expected | ended
    store.start("main", digest="d" * 64, code="/code")
    assert store.job("main") == expected
    store.end("main", status="finished")
    assert store.job("main") == expected | {"status": "finished"}


def test_a_job_keeps_to_its_study(store: Store) -> None:
    store.start("main", digest="d" * 64, code="")
    store.end("main", status="finished")
    with pytest.raises(RunError, match="dddddddddddd") as caught:
        store.start("main", digest="e" * 64, code="")
    assert "start a new run" in caught.value.remedy
    job = store.job("main")
    assert job is not None
    assert (job["digest"], job["status"]) == ("d" * 64, "finished")
    store.start("other", digest="e" * 64, code="")


def test_members_are_kept_by_name_and_the_last_word_stands(store: Store) -> None:
    store.introduce("main", [Introduction("alpha", None, "left out: silent")])
    store.introduce("main", [Introduction("alpha", 40, "took part")])
    store.introduce("other", [Introduction("beta", 9, "took part")])
    assert store.members("main") == [
        {
            "job": "main",
            "site": "alpha",
            "declared": 40,
            "status": "took part",
            "node": "",
            "noise": "",
        }
    ]


def test_a_round_keeps_every_answer_and_counts_the_good_ones(store: Store) -> None:
    answers = [
        Reply("beta", "refused", "study not approved here"),
        Reply("alpha", "ok", epsilon=0.5, reserves=2),
        Reply("gamma", "silent", "no answer within 9 s"),
    ]
    store.round("main", number=1, phase="train", answers=answers, seconds=1.5)
    store.round("main", number=1, phase="evaluate", answers=answers[1:2], seconds=9.0)
    assert store.replies("main") == [
        row("alpha", 1, "evaluate", epsilon=0.5, reserves=2),
        row("alpha", 1, epsilon=0.5, reserves=2),
        row("beta", 1, status="refused", reason="study not approved here"),
        row("gamma", 1, status="silent", reason="no answer within 9 s"),
    ]
    db = sqlite3.connect(store.path)
    # Only training rounds are rounds.
    assert db.execute("SELECT * FROM rounds").fetchall() == [("main", 1, 1, 1.5, 0)]
    db.close()


def test_a_repeated_round_replaces_itself(store: Store) -> None:
    for status, reserves in (("failed", None), ("ok", 2)):
        answers = [Reply("alpha", status, reserves=reserves)]
        store.round("main", number=1, phase="train", answers=answers, seconds=1)
    assert store.replies("main") == [row("alpha", 1, reserves=2)]
    assert store.rounds_done() == 1


def test_a_repeated_round_has_no_good_answers_but_its_own(store: Store) -> None:
    # alpha answered before the coordinator died, and was gone when the round was asked again.
    store.round("main", number=1, phase="train", answers=[Reply("alpha", "ok", reserves=1)],
                seconds=1)  # fmt: skip
    store.round("main", number=1, phase="train", answers=[Reply("beta", "ok")], seconds=1)
    alpha, beta = store.replies("main")
    assert (alpha["status"], alpha["reason"]) == ("absent", "the round was repeated without it")
    assert (alpha["reserves"], beta["status"]) == (1, "ok")


def test_a_member_stays_one_and_a_node_has_one_row(store: Store) -> None:
    big = str(2**64 - 1)  # SQLite's integers end at 2^63
    store.introduce("main", [Introduction("node 7", None, "left out: silent", node=big)])
    store.introduce("main", [Introduction("alpha", 40, "took part", node=big)])
    store.introduce("main", [Introduction("alpha", 40, "left out: paused", node=big)])
    assert store.members("main") == [
        {
            "job": "main",
            "site": "alpha",
            "declared": 40,
            "status": "took part",
            "node": big,
            "noise": "",
        }
    ]


def test_a_job_that_starts_again_keeps_its_members_and_forgets_who_was_left_out(
    store: Store,
) -> None:
    store.start("main", digest="d" * 64, code="")
    silent = Introduction("node 2", None, "left out: silent", node="2")
    store.introduce("main", [Introduction("alpha", 40, "took part", node="1"), silent])
    store.start("main", digest="d" * 64, code="")
    assert [m["site"] for m in store.members("main")] == ["alpha"]


def test_who_missed_what_and_why_is_one_table(store: Store) -> None:
    # beta came in round 2, gamma failed in round 1, delta never took part.
    rounds = {
        1: [Reply("alpha", "ok"), Reply("gamma", "failed", "gone"), Reply("delta", "absent", "no")],
        2: [Reply("alpha", "ok"), Reply("beta", "ok"), Reply("gamma", "dropped", "not finite")],
    }
    for number, answers in rounds.items():
        store.round("main", number=number, phase="train", answers=answers, seconds=1)
    store.round("main", number=2, phase="evaluate", seconds=1,
                answers=[Reply("alpha", "silent", "late")])  # fmt: skip
    assert [tuple(r.values()) for r in store.missed("main")] == [
        (1, "train", "beta", "absent", "it had not joined"),
        (1, "train", "delta", "absent", "no"),
        (1, "train", "gamma", "failed", "gone"),
        (2, "evaluate", "alpha", "silent", "late"),
        (2, "train", "gamma", "dropped", "not finite"),
    ]
    assert store.missed("other") == []


def test_the_past_is_the_highest_receipt_of_each_site_of_the_job(store: Store) -> None:
    # Break it once: take the tag of the newest answer, which is not that of the highest count.
    had = [(1, 0.5, "one"), (3, 0.75, "three"), (2, 0.6, "two"), (None, None, None)]
    for number, (reserves, epsilon, tag) in enumerate(had, start=1):
        answers = [Reply("alpha", "ok", reserves=reserves, epsilon=epsilon, tag=tag)]
        store.round("main", number=number, phase="train", answers=answers, seconds=1)
    unprotected = [Reply("beta", "ok", reserves=9)]
    store.round("main", number=2, phase="evaluate", answers=unprotected, seconds=1)
    store.round("other", number=1, phase="train", answers=[Reply("alpha", "ok", reserves=50)],
                seconds=1)  # fmt: skip
    past = store.past("main", number=2, phase="train")
    assert past.receipt("alpha") == Receipt(3, "three", 0.75)
    assert past.receipt("beta") == Receipt(9, None, 0.0)
    assert past.receipt("gamma") == Receipt()
    assert past.answered == {"alpha"}
    assert store.past("main", number=4, phase="train").answered == frozenset()


def test_a_count_that_came_with_its_tag_once_keeps_it(store: Store) -> None:
    for number, tag in enumerate([None, "three", None], start=1):
        answers = [Reply("alpha", "ok", reserves=3, epsilon=0.5, tag=tag)]
        store.round("main", number=number, phase="train", answers=answers, seconds=1)
    assert store.past("main", number=4, phase="train").receipt("alpha").tag == "three"


def test_deltas_of_earlier_rounds_are_found_by_their_fingerprints(store: Store) -> None:
    for number, mark in ((1, "aa"), (2, "bb"), (3, "cc")):
        answers = [Reply("alpha", "ok", fingerprint=mark), Reply("beta", "ok")]
        store.round("main", number=number, phase="train", answers=answers, seconds=1)
    assert store.deltas_before("main", 3, ["aa", "cc", "dd", ""]) == {"aa": (1, "alpha")}
    assert store.deltas_before("other", 3, ["aa"]) == {}
    assert store.deltas_before("main", 3, []) == {}


def test_a_remark_and_the_scaled_deltas_are_kept(store: Store) -> None:
    store.start("main", digest="d" * 64, code="")
    store.remark("main", "bears none")
    store.round("main", number=1, phase="train", answers=[], seconds=1, clipped=2)
    job = store.job("main")
    assert job is not None
    assert job["remark"] == "bears none"
    assert [r["clipped"] for r in store.rounds("main")] == [2]


def test_rounds_of_all_jobs_are_counted(store: Store) -> None:
    assert store.rounds_done() == 0
    for job, number in (("main", 1), ("main", 2), ("other", 1)):
        store.round(job, number=number, phase="train", answers=[], seconds=1)
    assert store.rounds_done() == 3


def test_histograms_come_back_exactly(store: Store) -> None:
    counts = [[[0.1, -2.5], [3.0, 1e-300]]]
    store.histogram("main", site="alpha", sigma=1.633, counts=counts)
    store.histogram("other", site="alpha", sigma=9.0, counts=[])
    assert store.histograms("main") == {"alpha": (1.633, counts)}


def test_another_process_reads_what_was_written_before_the_store_is_closed(
    store: Store, tmp_path: Path
) -> None:
    store.start("main", digest="d" * 64, code="")
    reader = Store(tmp_path)
    assert reader.job("main") is not None
    reader.close()


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    db = sqlite3.connect(tmp_path / "run.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RunError, match="version 99") as caught:
        Store(tmp_path)
    assert "later" in caught.value.remedy


def test_a_store_of_the_version_before_is_gone_on_with(tmp_path: Path) -> None:
    # Break it once: leave out the new column.
    store = Store(tmp_path)
    answers = [Reply("alpha", "ok", reserves=3, epsilon=0.5, tag="three")]
    store.round("main", number=1, phase="train", answers=answers, seconds=1)
    store.close()
    db = sqlite3.connect(tmp_path / "run.sqlite")
    db.execute("ALTER TABLE replies DROP COLUMN tag")
    db.execute("PRAGMA user_version = 2")
    db.commit()
    db.close()
    for _ in range(2):
        store = Store(tmp_path)
        assert store.past("main", number=2, phase="train").receipt("alpha") == Receipt(3, None, 0.5)
        store.close()


def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    content = b"this is not a database" * 100
    (tmp_path / "run.sqlite").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.sqlite"):
        Store(tmp_path)
    assert (tmp_path / "run.sqlite").read_bytes() == content


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="absent"):
        Store(tmp_path / "absent")


def test_a_full_disk_is_told_apart_from_a_broken_store(store: Store) -> None:
    with store._open() as db:
        (pages,) = db.exec_driver_sql("PRAGMA page_count").one()

    with pytest.raises(OSError) as caught, store._open() as db:  # noqa: PT011, PT012
        db.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        db.exec_driver_sql("CREATE TABLE large (x)")
        db.exec_driver_sql("INSERT INTO large VALUES (zeroblob(100000))")
    assert is_disk_full(caught.value)
