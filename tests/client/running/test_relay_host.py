"""Relays forked from a warm process: they get their arguments, and there is a way without it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.running.relay_host import KNOCK, serve
from common.running.processes import write_shim


def until(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def tell() -> None:
    """What the relays of these tests do."""
    import client

    assert client.__file__ is not None  # imported anew: the bundle's would be found first
    ours = [name for name in sys.modules if name.startswith("client.")]
    sys.stdout.write(f"{os.getpid()} {sys.argv} {ours}\n")
    if "--fail" in sys.argv:
        raise ValueError("a relay that fails")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A folder in whose `door` a host listens."""
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(tmp_path / "door", tmp_path / "log", tell)
    )
    process.start()
    until((tmp_path / "door").exists)
    yield tmp_path
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=20)


def knock(folder: Path, *arguments: str) -> int:
    command = [sys.executable, "-S", "-c", KNOCK, str(folder / "door"), *arguments]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode


def test_each_relay_has_its_own_process_arguments_and_none_of_our_modules(host: Path) -> None:
    log = host / "log"
    assert knock(host, "--token", "a b'c") == 0
    assert knock(host, "--fail") == 0
    assert knock(host, "--last") == 0  # one that failed has not taken the host with it
    until(lambda: log.exists() and "--last" in log.read_text())
    lines = [line for line in log.read_text().splitlines() if "flwr-clientapp" in line]
    assert len({line.split()[0] for line in lines}) == 3
    assert any("['flwr-clientapp', '--token', \"a b'c\"] []" in line for line in lines)


def test_what_relays_print_is_kept_short(host: Path) -> None:
    log, size = host / "log", 2**24
    with log.open("wb") as file:
        file.truncate(size + 1)
    assert knock(host, "--new") == 0
    until(lambda: "--new" in log.read_text())
    assert len(log.read_text().splitlines()) == 1
    assert (host / "log.1").stat().st_size == size


def test_nonsense_at_the_door_is_ignored(host: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(host / "door"))
        visitor.sendall(b"\xff not json")
        visitor.shutdown(socket.SHUT_WR)
        assert visitor.recv(1) == b""
    assert knock(host, "--fine") == 0


def test_where_nobody_listens_the_command_runs_on_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import sys\ndef main(): print('alone', sys.argv[1:])\n")
    knocking = [sys.executable, "-S", "-c", KNOCK, str(tmp_path / "door")]
    shim, log = tmp_path / "flwr-clientapp", tmp_path / "log"
    write_shim(shim, module="own", function="main", log=log, first=knocking)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([str(shim), "--token", "t"], env=env, check=True)
    assert "alone ['--token', 't']" in log.read_text()
