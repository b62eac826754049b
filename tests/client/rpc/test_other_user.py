"""Another user of the machine: the relay's may ask for a round, and nobody may do anything else."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.rpc.service import close_to_others
from common.wire import Envelope
from tests.client.rpc.running import running, short_folder

ROOT = Path(__file__).parents[3]
USER = "nobody"

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root can become another user",
)

# What it needs is imported before it becomes the other user, who may not read this Python.
AS_ANOTHER = """
import json, os, socket, sys
from pathlib import Path
from client.rpc import admin, relay
from common.errors import GrandroundsError
from common.wire import Envelope

user, group, site = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
os.setgroups([]); os.setgid(group); os.setuid(user)

def attempt(act):
    try:
        return act()
    except GrandroundsError as error:
        return error.message
    except OSError as error:
        return type(error).__name__

def connect(name):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(site / name / "agent.sock"))
    return "connected"

relay.WAIT_S = 0.2
files = sys.argv[4:]
print(json.dumps({
    "round": attempt(lambda: relay.ask_agent(
        f"unix:{site}/relay/agent.sock", Envelope({"round": 1})).header["status"]),
    "relay": attempt(lambda: connect("relay")),
    "admin": attempt(lambda: connect("admin")),
    "command": attempt(lambda: admin.call(site, "approve")),
    "running": attempt(lambda: admin.is_running(site)),
    "swap": attempt(lambda: (site / "relay" / "agent.sock").unlink()),
    "plant": attempt(lambda: (site / "relay" / "token").symlink_to("/etc/passwd")),
    "list": attempt(lambda: [p.name for p in site.iterdir()]),
    "read": {name: attempt(lambda: (site / name).read_text()) for name in files},
}))
"""

FILES = ("cohort.toml", "policy.toml", "ledger.sqlite", "ledger.head", "site.log", "report.html")
INSIDE = ("approved/plan.toml", "keys/secret", "patients/p1.png")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A site as a careless copy may have left it: readable by all."""
    with short_folder() as folder:
        folder.chmod(0o755)
        for name in FILES:
            (folder / name).write_text("secret")
            (folder / name).chmod(0o644)
        for name in INSIDE:
            (folder / name).parent.mkdir(mode=0o755)
            (folder / name).write_text("secret")
        close_to_others(folder, folder / "patients")
        yield folder


def as_another(folder: Path) -> dict[str, Any]:
    entry = pwd.getpwnam(USER)
    given = (str(entry.pw_uid), str(entry.pw_gid), str(folder), *FILES, *INSIDE)
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER, *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def answer(request: Envelope) -> Envelope:
    return Envelope({"status": "ok"})


def test_the_relays_user_can_ask_for_a_round_and_nothing_else(folder: Path) -> None:
    with running(answer, folder, relay_user=USER):
        found = as_another(folder)
        assert (folder / "relay" / "agent.sock").exists()
    assert found["round"] == "ok"
    assert found["relay"] == "connected"
    assert_shut_out(found)


def test_any_other_user_cannot_even_ask(folder: Path) -> None:
    with running(answer, folder):
        found = as_another(folder)
    assert "does not answer" in found["round"]
    assert found["relay"] == "PermissionError"
    assert_shut_out(found)


def assert_shut_out(found: dict[str, Any]) -> None:
    assert found["admin"] == "PermissionError"
    assert "is closed to this user" in found["command"]
    assert "is closed to this user" in found["running"]
    assert found["swap"] == found["plant"] == "PermissionError"
    assert found["list"] == "PermissionError"
    assert set(found["read"].values()) == {"PermissionError"}


def test_on_tcp_the_token_is_the_relays_users_alone(folder: Path) -> None:
    with running(answer, folder, relay_user=USER, tcp=0):
        token = (folder / "relay" / "token").stat()
        assert token.st_uid == pwd.getpwnam(USER).pw_uid
        assert token.st_mode & 0o777 == 0o600
        assert (folder / "admin" / "token").stat().st_uid == os.geteuid()
