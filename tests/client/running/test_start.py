"""Starting a site: what is refused beforehand, and what each process is given."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from client.desk.kit import fingerprint, read_kit, read_node_key
from client.running import start as start_module
from client.running.relay_home import prepare_relay
from client.running.start import StartOptions, pid_file, start_site, stop_site
from common.errors import GrandroundsError, SiteError
from common.running import daemon
from common.running.supervision import Child
from common.schema import dump_toml
from tests.small_world import made_site

NOW = datetime.now(UTC)


def make_key(path: Path, *, kind: form.PrivateFormat = form.PrivateFormat.OpenSSH) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(form.Encoding.PEM, kind, form.NoEncryption()))


def make_authority(path: Path, *, begins: datetime = NOW, days: int = 10) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(begins).not_valid_after(begins + timedelta(days=days))
    certificate = builder.sign(key, hashes.SHA384())
    path.write_bytes(certificate.public_bytes(form.Encoding.PEM))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site's folder with keys and a kit, as far as a start reads them."""
    folder = tmp_path / "alpha"
    for name in ("keys", "kit"):
        (folder / name).mkdir(parents=True)
    make_key(folder / "keys" / "node.key")
    make_authority(folder / "kit" / "ca.crt")
    (folder / "cohort.toml").write_text('name = "alpha"\npath = "patients.csv"\n')
    write_kit(folder)
    return folder


def write_kit(folder: Path, **changes: str) -> None:
    key = fingerprint(read_node_key(folder / "keys" / "node.key"))
    values = {"address": "hub.example.org:443", "name": "alpha", "federation": "f", "key": key}
    (folder / "kit" / "site.toml").write_text(dump_toml({**values, **changes}))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """The children that a start would keep up."""
    found: list[Child] = []

    def supervise(children: Sequence[Child], **_: Any) -> None:
        found.extend(children)

    monkeypatch.setattr(start_module, "supervise", supervise)
    return found


def begin(folder: Path, **options: Any) -> None:
    start_site(folder, StartOptions(**options), foreground=True, stop=threading.Event())


def after(command: Sequence[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_a_site_has_an_agent_and_the_relays_processes(site: Path, started: list[Child]) -> None:
    begin(site)
    agent, node, executor, _ = started
    names = [child.name for child in started]
    assert names == ["agent", "supernode", "superexec", "relays"]
    assert agent.command[-4:] == ["watch", str(site), "--log-format", "text"]
    assert "client.rpc.service" in agent.command
    assert after(node.command, "--superlink") == "hub.example.org:443"
    home = site / "relay" / "home"
    assert after(node.command, "--root-certificates") == str(home / "ca.crt")
    told = tomllib.loads(Path(after(node.command, "--node-config")).read_text())
    assert told == {"transport": "agent", "agent": f"unix:{site}/relay/agent.sock"}
    # The executor calls the very port that the node opens, on this machine alone.
    port = after(node.command, "--port")
    assert after(executor.command, "--runtime-api-address") == f"127.0.0.1:{port}"
    assert after(node.command, "--host") == "127.0.0.1"
    assert agent.grace_s >= 30  # a round that is being computed may finish


def test_a_file_that_is_no_ledger_forbids_the_start_and_is_left_as_it_is(tmp_path: Path) -> None:
    folder, junk = made_site(tmp_path / "alpha"), b"this is not a database" * 100
    make_authority(folder / "kit" / "ca.crt")
    write_kit(folder)
    (folder / "ledger.sqlite").write_bytes(junk)
    with pytest.raises(SiteError, match=r"ledger.sqlite' cannot be opened") as caught:
        start_site(folder)
    assert "backup" in caught.value.remedy
    assert (folder / "ledger.sqlite").read_bytes() == junk
    assert daemon.holder(pid_file(folder)) is None


def test_the_relays_processes_get_nothing_of_the_sites_environment(
    site: Path, started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    begin(site)
    agent, *relay = started
    assert agent.env["DATABASE_PASSWORD"] == "secret"
    for child in relay:
        assert "DATABASE_PASSWORD" not in child.env
        assert child.env["FLWR_TELEMETRY_ENABLED"] == "0"
        assert child.env["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert child.env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert child.env["FLWR_HOME"] == str(site / "relay" / "home" / "home")
        assert child.env["PATH"].startswith(str(site / "relay" / "home" / "bin"))
        # Modules in the working directory would shadow the coordinator's bundle.
        assert list(child.cwd.iterdir()) == []


@pytest.mark.parametrize("kind", [form.PrivateFormat.OpenSSH, form.PrivateFormat.PKCS8])
def test_the_node_key_reaches_flower_as_openssh_writes_it(
    site: Path, started: list[Child], kind: form.PrivateFormat
) -> None:
    make_key(site / "keys" / "node.key", kind=kind)
    write_kit(site)
    begin(site)
    copy = Path(after(started[1].command, "--auth-supernode-private-key"))
    key = form.load_ssh_private_key(copy.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert fingerprint(key) == fingerprint(read_node_key(site / "keys" / "node.key"))
    assert copy.stat().st_mode & 0o777 == 0o600


def test_options_win_over_the_kit(site: Path, started: list[Child]) -> None:
    begin(site, superlink="localhost:9092", tcp=5555, log_format="json")
    assert after(started[1].command, "--superlink") == "localhost:9092"
    assert after(started[0].command, "--tcp") == "5555"
    assert after(started[0].command, "--log-format") == "json"
    told = tomllib.loads(Path(after(started[1].command, "--node-config")).read_text())
    assert told["agent"] == "127.0.0.1:5555"
    assert told["token-file"] == str(site / "relay" / "token")


def test_what_an_earlier_relay_left_behind_is_gone(site: Path, started: list[Child]) -> None:
    begin(site)
    home = site / "relay" / "home"
    (home / "node.key").unlink()
    (home / "node.key").symlink_to(site / "cohort.toml")  # a hostile relay would have us write it
    (home / "empty" / "client.py").write_text("")
    begin(site)
    assert not (home / "node.key").is_symlink()
    assert (site / "cohort.toml").read_text().startswith("name")
    assert list((home / "empty").iterdir()) == []


def refusal(folder: Path, **options: Any) -> SiteError:
    with pytest.raises(GrandroundsError) as caught:
        begin(folder, **options)
    assert not (folder / "relay").exists()
    assert caught.value.remedy
    return caught.value  # type: ignore[return-value]


def test_a_site_without_kit_is_told_how_to_get_one(site: Path, started: list[Child]) -> None:
    (site / "kit" / "ca.crt").unlink()
    error = refusal(site)
    assert "has no kit" in error.message
    assert "node.pub" in error.remedy


def test_a_kit_of_another_site_is_refused(site: Path, started: list[Child]) -> None:
    write_kit(site, name="beta")
    assert "for site 'beta', but cohort.toml names 'alpha'" in refusal(site).message


def test_a_key_that_does_not_match_the_kit_is_refused(site: Path, started: list[Child]) -> None:
    make_key(site / "keys" / "node.key")
    error = refusal(site)
    assert "the kit was made for key SHA256:" in error.message
    assert "keys/node.pub" in error.remedy


def test_a_missing_or_broken_key_is_refused(site: Path, started: list[Child]) -> None:
    (site / "keys" / "node.key").write_text("nothing")
    assert "no private key" in refusal(site).message
    (site / "keys" / "node.key").unlink()
    assert "cannot be read" in refusal(site).message


def test_an_expired_certificate_is_refused(site: Path, started: list[Child]) -> None:
    make_authority(site / "kit" / "ca.crt", begins=NOW - timedelta(days=20))
    assert "expired on" in refusal(site).message
    make_authority(site / "kit" / "ca.crt", begins=NOW + timedelta(days=2))
    assert "clock" in refusal(site).remedy
    read_kit(site, now=NOW + timedelta(days=3))


@pytest.mark.parametrize("address", ["hub", "https://hub", "hub:0", "hub:99999", ":9092"])
def test_an_address_that_is_none_is_refused(site: Path, started: list[Child], address: str) -> None:
    assert "not HOST:PORT" in refusal(site, superlink=address).message


def test_a_folder_too_deep_for_a_socket_is_refused(site: Path, started: list[Child]) -> None:
    deep = site.parent / ("d" * 90) / "alpha"
    deep.parent.mkdir()
    site.rename(deep)
    assert "--tcp" in refusal(deep).remedy
    begin(deep, tcp=5555)


def test_a_site_that_runs_is_not_started_again(site: Path, started: list[Child]) -> None:
    (site / "run").mkdir()
    with daemon.hold(pid_file(site)):
        assert f"as process {os.getpid()}" in refusal(site).message


def test_a_port_in_use_is_told_before_anything_starts(site: Path, started: list[Child]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = refusal(site, tcp=port)
        assert f"--tcp is {port}, which another program" in error.message
        assert "another port" in error.remedy


def test_an_unknown_relay_user_and_root_are_refused(site: Path, started: list[Child]) -> None:
    for user, message in (("no-such-user", "does not know"), ("root", "may read everything")):
        if user == "root" and os.geteuid() != 0:
            message = "only root"
        with pytest.raises(SiteError, match=message):
            begin(site, relay_user=user)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_relay_user_that_could_read_patients_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("no Python that every user may run")
    # The tests' own temporary folder is closed to other users.
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o711)
        opened = site.rename(Path(place) / "alpha")
        opened.chmod(0o711)
        _refuses_who_can_read(opened, python, monkeypatch)


def test_the_files_of_every_cohort_are_kept_from_the_relays_user(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Break it once: hand on the main cohort's path alone.
    seen: list[Path] = []

    def prepare(*_: object, private: Sequence[Path], **__: object) -> None:
        seen.extend(private)
        raise SiteError("enough", remedy="none")

    with (site / "cohort.toml").open("a") as file:
        file.write('[cohorts.ward]\npath = "/srv/ward.csv"\ndeclared = 40\n')
    monkeypatch.setattr(start_module, "prepare_relay", prepare)
    with pytest.raises(SiteError, match="enough"):
        start_site(site, StartOptions(relay_user="nobody"), foreground=True)
    assert {site / "patients.csv", Path("/srv/ward.csv")} <= set(seen)


def _refuses_who_can_read(site: Path, python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr("client.running.relay_home._IMPORTS", "import os")
    patients, policy = site / "patients.csv", site / "policy.toml"
    for path in (patients, policy):
        path.write_text("x")
        path.chmod(0o600)
    kit, private = read_kit(site), [patients, policy]
    prepare_relay(site, kit, user="nobody", node={}, private=private)
    patients.chmod(0o644)
    with pytest.raises(SiteError, match=r"can read .*patients\.csv") as caught:
        prepare_relay(site, kit, user="nobody", node={}, private=private)
    assert "chmod" in caught.value.remedy


@pytest.mark.slow
def test_a_site_is_stopped_by_its_pid_file_and_its_agent_ends_in_order(site: Path) -> None:
    note = site / "note"
    agent = [
        sys.executable,
        "-S",
        "-c",
        "import signal, sys, time\n"
        "def end(*_):\n"
        f"    open({str(note)!r}, 'w').write('ended')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "time.sleep(600)\n",
    ]
    child = os.fork()
    if child == 0:
        start_site(site, foreground=True, agent=agent)
        os._exit(0)
    end = time.monotonic() + 60
    while not (site / "run" / "supernode.log").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert stop_site(site)
    assert os.waitpid(child, 0)[1] == 0
    assert note.read_text() == "ended"
    assert not stop_site(site)
