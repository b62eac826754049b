"""What the health of a site's parts is made of."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from client.ledger import Key, Ledger
from client.rpc import checks
from client.rpc.checks import Budget, Unchanged, checks_of
from client.site import Site, write_site
from server.house.certificates import Pair, make_authority, make_server
from tests.small_world import add_cohort, hospital, roomy, small_plan

PLAN = small_plan()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return hospital(tmp_path / "site", PLAN)


@pytest.fixture
def ledger(site: Site) -> Iterator[Ledger]:
    ledger = Ledger(site.ledger_path)
    yield ledger
    ledger.close()


def test_a_new_site_is_well_and_has_no_server_yet(site: Site, ledger: Ledger) -> None:
    found = {name: check() for name, check in checks_of(site.folder, ledger).items()}
    assert found == {"data": True, "device": True, "budget": True, "superlink": None}


def test_a_file_of_patients_that_changes_is_noticed_until_it_is_as_before(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text("a")
    check = Unchanged(path)
    assert check()
    path.write_text("ab")
    assert not check()
    path.unlink()
    assert not check()


def test_a_file_that_cannot_be_read_at_the_start_is_not_well(tmp_path: Path) -> None:
    check = Unchanged(tmp_path / "patients.csv")
    assert not check()
    (tmp_path / "patients.csv").write_text("a")
    assert not check()


@pytest.mark.parametrize("change", ["added", "edited", "removed", "below"])
def test_a_folder_of_images_that_changes_is_noticed(tmp_path: Path, change: str) -> None:
    (tmp_path / "p1").mkdir()
    for name in ("one.png", "p1/two.png"):
        (tmp_path / name).write_bytes(b"pixels")
    check = Unchanged(tmp_path)
    assert check()
    match change:
        case "added":
            (tmp_path / "three.png").touch()
        case "edited":
            (tmp_path / "one.png").write_bytes(b"other pixels")
        case "removed":
            (tmp_path / "one.png").unlink()
        case "below":
            (tmp_path / "p1" / "two.png").write_bytes(b"")
    assert not check()


def test_the_budget_is_not_well_while_the_site_has_paused(site: Site, ledger: Ledger) -> None:
    check = Budget(site.folder, ledger)
    assert check()
    ledger.record("pause", {"why": "a new scanner"})
    assert not check()
    ledger.record("resume", {})
    assert check()


def test_the_budget_is_not_well_while_the_ledger_is_behind(site: Site, ledger: Ledger) -> None:
    check = Budget(site.folder, ledger)
    assert check()
    ledger.check_seen(PLAN.digest, 3)
    assert not check()


def test_the_budget_is_not_well_when_it_is_spent(site: Site, ledger: Ledger) -> None:
    check = Budget(site.folder, ledger)
    assert check()
    key = Key(PLAN.digest, "r1", "train", 1)
    ledger.reserve(key, delta=PLAN.delta, events=PLAN.training_prices())
    assert check()
    # One round is more than a policy of so little allows for a life.
    write_site(site.folder, cohort=site.cohort, policy=roomy(PLAN, epsilon=0.001), plans=[PLAN])
    assert not check()


@pytest.mark.parametrize("disjoint", [False, True])
def test_the_budget_is_well_while_some_cohorts_patients_have_any_left(
    site: Site, ledger: Ledger, disjoint: bool
) -> None:
    ledger.record("approval", {"digest": PLAN.digest})
    key = Key(PLAN.digest, "r1", "train", 1)
    ledger.reserve(key, delta=PLAN.delta, events=PLAN.training_prices())
    write_site(site.folder, cohort=site.cohort, policy=roomy(PLAN, epsilon=0.001), plans=[PLAN])
    check = Budget(site.folder, ledger)
    assert not check()
    add_cohort(site.folder, "ward", disjoint=disjoint)
    assert check() is disjoint


def test_a_change_of_any_cohorts_file_is_noticed(site: Site, ledger: Ledger) -> None:
    # Break it once: look at the main cohort alone.
    data = add_cohort(site.folder, "ward")
    check = checks_of(site.folder, ledger)["data"]
    assert check()
    data.write_text(data.read_text() + "p99,99,120.0,ill\n")
    assert not check()


def test_the_ledger_is_read_again_only_when_it_has_changed(
    site: Site, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Budget(site.folder, ledger)
    assert check()
    monkeypatch.setattr(check, "_read", lambda: pytest.fail("read again"))
    assert check()


def test_a_device_without_memory_or_that_is_not_there_is_not_well(
    site: Site, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = checks_of(site.folder, ledger)["device"]
    monkeypatch.setattr(checks, "_available", lambda: checks.LEAST_MEMORY - 1.0)
    assert check() is False
    text = (site.folder / "cohort.toml").read_text()
    (site.folder / "cohort.toml").write_text(text.replace('"cpu"', '"cuda:99"'))
    with pytest.raises(Exception, match="cuda:99"):
        check()


@contextmanager
def a_server(folder: Path, authority: Pair) -> Iterator[int]:
    """A TLS server on loopback whose certificate an authority signed; yields its port."""
    make_server(authority, ["127.0.0.1"]).write(folder / "server.crt", folder / "server.key")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "server.crt", folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=_greet, args=(server, tls))
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _greet(server: socket.socket, tls: ssl.SSLContext) -> None:
    while True:
        try:
            link, _ = server.accept()
        except OSError:
            return
        with link, suppress(OSError):
            tls.wrap_socket(link, server_side=True).close()


def test_the_server_is_well_while_it_shows_a_certificate_of_the_kits_authority(
    site: Site, ledger: Ledger, tmp_path: Path
) -> None:
    check = checks_of(site.folder, ledger)["superlink"]
    ours, other = make_authority("ours"), make_authority("other")
    kit = site.folder / "kit"
    kit.mkdir()
    with a_server(tmp_path, ours) as port:
        (kit / "site.toml").write_text(f'name = "site"\naddress = "127.0.0.1:{port}"\n')
        assert check() is False  # the kit lacks the authority's certificate
        ours.write(kit / "ca.crt", tmp_path / "ca.key")
        assert check() is True
        other.write(kit / "ca.crt", tmp_path / "ca.key")
        assert check() is False
    ours.write(kit / "ca.crt", tmp_path / "ca.key")
    assert check() is False
