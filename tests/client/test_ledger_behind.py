"""A ledger that has lost entries says so, releases nothing, and goes on once they are charged."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from client.ledger import Behind, Charge, Key, Ledger
from common.errors import SiteError
from common.privacy.events import Event, gaussian, merge

TRAIN = gaussian(sigma=2.0, count=5, part="train")
WHOLE = gaussian(sigma=2.0, count=50, part="train")
A, B = "a" * 64, "b" * 64

Open = Callable[..., Ledger]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "site" / "ledger.sqlite"
    (path.parent / "keys").mkdir(parents=True)
    (path.parent / "keys" / "secret").write_bytes(bytes(32))
    return path


@pytest.fixture
def open_ledger(path: Path) -> Iterator[Open]:
    """Return a function that opens the site's ledger, and close whatever it opened."""
    opened: list[Ledger] = []

    def open_ledger(where: Path = path, *, durable: bool = True) -> Ledger:
        opened.append(Ledger(where, durable=durable))
        return opened[-1]

    yield open_ledger
    for ledger in opened:
        ledger.close()


def key(number: int = 1, *, digest: str = A) -> Key:
    return Key(digest, "main", "train", number)


def reserve(ledger: Ledger, number: int = 1, *, events: tuple[Event, ...] = (TRAIN,)) -> int:
    return ledger.reserve(key(number), delta=1e-4, events=events)


def release(ledger: Ledger, number: int) -> None:
    ledger.commit(reserve(ledger, number), key(number), b"reply")


def assert_stopped(ledger: Ledger, why: str) -> None:
    assert ledger.behind is not None
    assert why in ledger.behind
    with pytest.raises(Behind, match="reconciled first") as caught:
        reserve(ledger, 9)
    assert "charge" in caught.value.remedy


def head_of(path: Path) -> dict[str, object]:
    return json.loads(path.with_suffix(".head").read_text())


def test_the_head_file_names_the_newest_entry_after_each_commit(
    path: Path, open_ledger: Open
) -> None:
    ledger = open_ledger()
    assert head_of(path)["seq"] == 0
    for number in (1, 2):
        release(ledger, number)
        assert (head_of(path)["seq"], head_of(path)["hash"]) == ledger.head
    assert ledger.head.seq == 4


def test_ledger_and_head_can_be_read_by_their_owner_alone(path: Path, open_ledger: Open) -> None:
    reserve(open_ledger())
    for found in path.parent.glob("ledger*"):
        assert found.stat().st_mode & 0o777 == 0o600, found


def test_a_simulations_ledger_keeps_no_head(path: Path, open_ledger: Open) -> None:
    reserve(open_ledger(durable=False))
    assert not path.with_suffix(".head").exists()


def test_a_crash_before_the_head_is_written_is_harmless(path: Path, open_ledger: Open) -> None:
    ledger = open_ledger()
    release(ledger, 1)
    old = path.with_suffix(".head").read_bytes()
    release(ledger, 2)
    ledger.close()
    path.with_suffix(".head").write_bytes(old)
    again = open_ledger()
    assert again.behind is None
    assert again.verify().ok
    reserve(again, 3)
    assert head_of(path)["seq"] == 5


def test_many_that_open_a_new_ledger_at_once_find_nothing_missing(path: Path) -> None:
    # Break it once: read the head file without the ledger's lock.
    barrier, found = threading.Barrier(8), []

    def use(number: int) -> None:
        barrier.wait(10)
        with closing(Ledger(path)) as ledger:
            ledger.record("approval", {"number": number})
            found.append(ledger.behind)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [None] * 8
    assert head_of(path)["seq"] == 8


def test_a_ledger_from_an_old_copy_is_behind_whatever_is_written_to_it(
    path: Path, open_ledger: Open, tmp_path: Path
) -> None:
    # Break it once: write the head file although the ledger is behind.
    ledger = open_ledger()
    release(ledger, 1)
    ledger.close()
    shutil.copy(path, tmp_path / "copy")
    ledger = open_ledger()
    for number in (2, 3):
        release(ledger, number)
    ledger.close()
    shutil.copy(tmp_path / "copy", path)
    for wanted in ("ends with entry 2", "ends with entry 4", "not the one", "not the one"):
        ledger = open_ledger()
        assert_stopped(ledger, wanted)
        ledger.record("pause", {})
        ledger.record("resume", {})
        ledger.close()


def test_a_ledger_begun_anew_beside_its_head_is_behind(path: Path, open_ledger: Open) -> None:
    release(open_ledger(), 1)
    for found in path.parent.glob("ledger.sqlite*"):
        found.unlink()
    assert_stopped(open_ledger(), "ends with entry 0")


def test_a_ledger_without_its_head_is_behind(path: Path, open_ledger: Open) -> None:
    release(open_ledger(), 1)
    path.with_suffix(".head").unlink()
    again = open_ledger()
    assert_stopped(again, "missing")
    assert not again.verify().ok


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b'{"seq": "2", "hash": "00"}', b'{"seq": 0, "hash": 0}'],
)
def test_a_head_that_cannot_be_read_is_no_head(
    path: Path, open_ledger: Open, content: bytes
) -> None:
    release(open_ledger(), 1)
    path.with_suffix(".head").write_bytes(content)
    assert_stopped(open_ledger(), "head file")


def test_a_head_that_this_site_did_not_sign_is_no_head(path: Path, open_ledger: Open) -> None:
    # Break it once: skip the signature.
    ledger = open_ledger()
    release(ledger, 1)
    values = {**head_of(path), "seq": 0, "hash": "0" * 64}
    path.with_suffix(".head").write_text(json.dumps(values))
    assert_stopped(open_ledger(), "not signed")
    del values["hmac"]
    path.with_suffix(".head").write_text(json.dumps(values))
    assert_stopped(open_ledger(), "not signed")


def test_reconciling_charges_counts_and_goes_on(path: Path, open_ledger: Open) -> None:
    release(open_ledger(), 1)
    path.with_suffix(".head").unlink()
    ledger = open_ledger()
    ledger.reconcile(
        [Charge(A, 1e-4, [WHOLE]), Charge(B, 2e-4, [WHOLE, TRAIN])], "disk died", by="ada"
    )
    for found in (ledger, open_ledger()):
        assert found.behind is None
        first, second = found.accounts()
        assert (first.events, first.reserves) == (merge([TRAIN, WHOLE]), 2)
        assert (second.events, second.reserves, second.delta) == (merge([TRAIN, WHOLE]), 1, 2e-4)
        assert found.verify().ok
    [entry] = ledger.entries("reconciliation")
    assert (entry.body["why"], entry.body["by"]) == ("disk died", "ada")
    assert "missing" in entry.body["behind"]
    reserve(ledger, 2)


def test_reconciling_what_is_not_behind_is_refused(open_ledger: Open) -> None:
    ledger = open_ledger()
    with pytest.raises(SiteError, match="not behind"):
        ledger.reconcile([Charge(A, 1e-4, [WHOLE])], "by mistake")
    assert ledger.accounts() == []


def test_a_reconciliation_that_cannot_be_written_leaves_the_ledger_behind(
    path: Path, open_ledger: Open
) -> None:
    release(open_ledger(), 1)
    path.with_suffix(".head").unlink()
    ledger = open_ledger()

    def interrupted() -> None:
        with ledger.transaction():
            ledger.reconcile([Charge(A, 1e-4, [WHOLE])], "why")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_stopped(ledger, "missing")
    assert ledger.accounts()[0].events == (TRAIN,)


def test_another_process_learns_of_a_reconciliation(path: Path, open_ledger: Open) -> None:
    release(open_ledger(), 1)
    path.with_suffix(".head").unlink()
    agent, administrator = open_ledger(), open_ledger()
    administrator.reconcile([Charge(A, 1e-4, [WHOLE])], "why")
    assert agent.behind is None
    reserve(agent, 2)


# What the coordinator has seen


def test_a_coordinator_that_has_seen_no_more_than_the_ledger_changes_nothing(
    open_ledger: Open,
) -> None:
    ledger = open_ledger()
    release(ledger, 1)
    before = ledger.head
    for seen in (0, 1):
        ledger.check_seen(A, seen)
    ledger.check_seen(B, 0)
    assert (ledger.head, ledger.behind) == (before, None)


@pytest.mark.parametrize("durable", [True, False])
def test_a_coordinator_that_has_seen_more_stops_the_ledger_for_good(
    open_ledger: Open, durable: bool
) -> None:
    # Break it once: keep it in memory only.
    ledger = open_ledger(durable=durable)
    release(ledger, 1)
    ledger.check_seen(A, 3)
    ledger.check_seen(A, 3)
    ledger.check_seen(A, 2)
    for found in (ledger, open_ledger(durable=durable)):
        assert_stopped(found, "seen 3 releases")
        assert len(found.entries("behind")) == 1
        assert found.verify().ok


def test_what_was_seen_must_be_charged_and_is_then_counted(open_ledger: Open) -> None:
    ledger = open_ledger()
    release(ledger, 1)
    ledger.check_seen(A, 5)
    for charge in ([Charge(B, 1e-4, [WHOLE])], [Charge(A, 1e-4, [])]):
        with pytest.raises(SiteError, match="more often than"):
            ledger.reconcile(charge, "restored")
    ledger.reconcile([Charge(A, 1e-4, [WHOLE])], "restored")
    assert ledger.accounts()[0].reserves == 5
    ledger.check_seen(A, 5)
    assert ledger.behind is None
    ledger.check_seen(A, 6)
    assert ledger.behind is not None


# Backups


def test_a_backup_is_whole_and_private_and_knows_that_it_is_one(
    open_ledger: Open, tmp_path: Path
) -> None:
    ledger = open_ledger()
    release(ledger, 1)
    target = tmp_path / "backup.sqlite"
    assert ledger.backup(target) == ledger.head
    names = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.glob("*backup*")}
    assert names == {"backup.sqlite": 0o600, "backup.head": 0o600}
    copy = open_ledger(target)
    assert copy.verify().ok
    assert copy.answered(key(1)) == (True, b"reply")
    assert_stopped(copy, "backup that ends with entry 2")
    release(ledger, 2)  # the ledger itself goes on
    assert ledger.behind is None


@pytest.mark.parametrize("with_head", [True, False], ids=["with its head", "alone"])
def test_a_restored_backup_is_behind_until_it_is_reconciled(
    path: Path, open_ledger: Open, tmp_path: Path, with_head: bool
) -> None:
    ledger = open_ledger()
    release(ledger, 1)
    ledger.backup(tmp_path / "backup.sqlite")
    release(ledger, 2)
    ledger.close()
    shutil.copy(tmp_path / "backup.sqlite", path)
    if with_head:
        shutil.copy(tmp_path / "backup.head", path.with_suffix(".head"))
    ledger = open_ledger()
    assert_stopped(ledger, "restored from a backup")
    ledger.reconcile([Charge(A, 1e-4, [WHOLE])], "disk died")
    for found in (ledger, open_ledger()):
        assert found.behind is None
        assert found.verify().ok


def test_a_backup_replaces_an_older_one(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger()
    for number in (1, 2):
        release(ledger, number)
        ledger.backup(tmp_path / "backup.sqlite")
    assert open_ledger(tmp_path / "backup.sqlite").head == ledger.head


def test_a_backup_never_takes_the_ledgers_place(path: Path, open_ledger: Open) -> None:
    ledger = open_ledger()
    release(ledger, 1)
    for target in (path, path.with_suffix(".bak"), path.with_suffix(".head")):
        with pytest.raises(SiteError, match="take the place"):
            ledger.backup(target)
    ledger.close()
    assert open_ledger().behind is None


def test_a_backup_that_cannot_be_written_says_so_and_leaves_nothing(
    open_ledger: Open, tmp_path: Path
) -> None:
    ledger = open_ledger()
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "absent" / "backup", tmp_path / "folder"):
        with pytest.raises(SiteError, match="cannot be written"):
            ledger.backup(target)
    assert [p.name for p in tmp_path.rglob("*partial*")] == []
