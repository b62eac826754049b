"""A real coordinator and a real SuperNode over TLS, through the filter where nginx is installed."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec

from client.running.start import StartOptions, start_site
from common.errors import RunError
from common.running import daemon
from common.running.supervision import Event
from common.schema import dump_toml
from server.house import service, superlink
from server.house.certificates import make_server, read_pair
from server.house.enrolment import enrol, read_sites, revoke
from server.house.home import Home, create_home
from server.house.nginx import nginx_program
from server.house.status import read_status

_NODE_S = 90.0
_AGENT = [sys.executable, "-S", "-c", "import time; time.sleep(3600)"]  # none is asked for here


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


@dataclass
class RunningSite:
    """A site whose processes a thread keeps up."""

    folder: Path
    events: list[Event]
    stop: threading.Event
    thread: threading.Thread

    def end(self) -> None:
        self.stop.set()
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()

    def pid(self, child: str) -> int:
        pids = [e.pid for e in self.events if e.child == child and e.what == "started"]
        assert pids[-1] is not None
        return pids[-1]


def make_site(folder: Path, home: Home) -> Path:
    """A site's folder with keys and the kit it got, as far as a start reads them."""
    (folder / "keys").mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP384R1())
    private = form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()
    (folder / "keys" / "node.key").write_bytes(key.private_bytes(*private))
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    (folder / "keys" / "node.pub").write_bytes(public)
    (folder / "cohort.toml").write_text(dump_toml({"name": folder.name, "path": "p.csv"}))
    kit = enrol(home, name=folder.name, key=folder / "keys" / "node.pub")
    with zipfile.ZipFile(kit) as archive:
        archive.extractall(folder / "kit")
    return folder


def run_site(folder: Path) -> RunningSite:
    stop, events = threading.Event(), list[Event]()
    values: dict[str, Any] = {"foreground": True, "agent": _AGENT, "stop": stop}
    thread = threading.Thread(
        target=start_site,
        args=(folder, StartOptions()),
        kwargs={**values, "on_event": events.append},
    )
    thread.start()
    return RunningSite(folder, events, stop, thread)


def states(home: Home) -> dict[str, str]:
    return {site["name"]: site["state"] for site in read_status(home)["sites"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A coordinator that runs, behind its filter where nginx is installed."""
    place = tmp_path_factory.mktemp("service")
    port = free_port()
    own = free_port() if nginx_program() else port
    home = create_home(place / "hub", host="localhost", port=port, superlink_port=own)
    make_site(place / "early", home)  # enrolled while nothing runs
    service.start(home)
    try:
        yield home
    finally:
        service.stop(home)
    assert daemon.holder(home.pid_file) is None
    assert not superlink.of(home).answers()


@pytest.mark.slow
def test_a_site_enrolled_before_the_start_connects_and_leaves_in_order(home: Home) -> None:
    until(lambda: read_sites(home)[0].node is not None)
    site = run_site(home.folder.parent / "early")
    try:
        until(lambda: states(home)["early"] == "online", seconds=_NODE_S)
    finally:
        site.end()
    # It said good-bye: no minute passes until the SuperLink notices.
    assert states(home)["early"] == "offline"
    assert [e.what for e in site.events] == ["started"] * 4 + ["stopped"] * 4


@pytest.mark.slow
def test_a_site_may_join_late_and_is_shut_out_when_revoked(home: Home) -> None:
    site = run_site(make_site(home.folder.parent / "late", home))
    try:
        until(lambda: states(home)["late"] == "online", seconds=_NODE_S)
        revoke(home, "late")
        assert states(home)["late"] == "revoked"
        log = site.folder / "run" / "supernode.log"
        os.kill(site.pid("supernode"), signal.SIGTERM)
        until(lambda: "Failed to initialize" in log.read_text(), seconds=_NODE_S)
    finally:
        site.end()


@pytest.mark.slow
def test_a_superlink_that_is_killed_comes_back_with_its_state(home: Home) -> None:
    log, known = home.scratch / "server.log", len(superlink.of(home).nodes())
    (pid,) = (
        int(line.split("process ")[1].split()[0])
        for line in log.read_text().splitlines()
        if "superlink started" in line
    )
    os.kill(pid, signal.SIGKILL)
    until(lambda: log.read_text().count("superlink started") == 2)
    until(superlink.of(home).answers)
    assert len(superlink.of(home).nodes()) == known
    assert "signal SIGKILL" in log.read_text()


def ask(home: Home, method: str, path: str, port: int | None = None) -> int:
    """Send a request whose path nobody tidies up; return the answer's status."""
    context = ssl.create_default_context(cafile=str(home.ca))
    port = port or home.config.port
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.putheader("Content-Length", "0")
        connection.putheader("Content-Type", "application/protobuf")
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


_CLOSED = (
    "/v1/control/start-run",
    "/v1/control/register-node",
    "/v1/control/unregister-node",
    "/v1/control/list-nodes",
    "/v1/control/stop-run",
    "/v1/runtime/acquire-task",
    "/v1/runtime/push-messages",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/",
    "/v1/fleet/../control/start-run",
    "/v1/fleet/%2e%2e/control/start-run",
    "/v1/fleet/..%2fcontrol/start-run",
    "/v1/fleet/pull-messages/../../control/start-run",
    "/v1/fleet//pull-messages",
    "//v1/control/start-run",
    "/v1//control/start-run",
    "/V1/CONTROL/START-RUN",
    "/health/../v1/control/list-runs",
    "/health/",
    "/docs",
    "/openapi.json",
    "/",
)


@pytest.mark.slow
@pytest.mark.skipif(nginx_program() is None, reason="nginx is not installed")
def test_through_the_filter_a_site_starts_no_run_and_registers_no_node(home: Home) -> None:
    until(lambda: ask(home, "GET", "/health") == 200)
    # Unsigned, so the SuperLink itself refuses it: it came through.
    assert ask(home, "POST", "/v1/fleet/pull-messages") == 401
    refused = {path: ask(home, "POST", path) for path in _CLOSED}
    assert refused == dict.fromkeys(_CLOSED, 403)
    assert ask(home, "GET", "/v1/fleet/pull-messages") == 403
    assert ask(home, "POST", "/health") == 403
    # Without the filter the SuperLink would do it for anyone, which is why it listens here alone.
    assert ask(home, "POST", "/v1/control/list-nodes", home.config.superlink_port) == 200


def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        home = create_home(tmp_path / "c", host="localhost", port=port)
        with pytest.raises(RunError, match=f"superlink_port is {port}, which cannot be used"):
            service.start(home)
    assert list(home.scratch.iterdir()) == []


def test_an_expired_certificate_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = create_home(tmp_path / "c", host="localhost", port=free_port())
    monkeypatch.setattr("server.house.certificates._SERVER_DAYS", 0)
    make_server(read_pair(home.ca, home.folder / "ca.key"), ["localhost"]).write(
        home.folder / "server.crt", home.folder / "server.key"
    )
    with pytest.raises(RunError, match=r"server\.crt' expired") as caught:
        service.start(home)
    assert "server renew" in caught.value.remedy


def test_a_coordinator_that_runs_is_not_started_again(tmp_path: Path) -> None:
    home = create_home(tmp_path / "c", host="localhost", port=free_port())
    with (
        daemon.hold(home.pid_file),
        pytest.raises(RunError, match=f"runs already, as process {os.getpid()}"),
    ):
        service.start(home)


def test_flower_is_told_to_stay_quiet_and_to_ask_for_keys(tmp_path: Path) -> None:
    home = create_home(tmp_path / "c", host="localhost", port=free_port())
    link, executor = service.children(home)
    assert "--enable-supernode-auth" in link.command
    assert link.command[list(link.command).index("--isolation") + 1] == "process"
    assert link.command[list(link.command).index("--host") + 1] == "127.0.0.1"
    for child in (link, executor):
        assert "--insecure" not in child.command
        assert child.env["FLWR_TELEMETRY_ENABLED"] == "0"
        assert child.env["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert child.env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert child.env["FLWR_HOME"] == str(home.folder / "run" / "home")
        assert child.env["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] == "0.05"
