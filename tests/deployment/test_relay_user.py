"""The relay as another OS user: it has a round computed, and can read nothing of the hospital."""

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

from tests.client.rpc.running import short_folder
from tests.deployed_world import World, processes, until
from tests.small_world import PATIENTS, csv_text, study_file

USER = "nobody"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a process as another user"),
]

# What the user tries: to read and to write each file, to list each folder, to open each socket.
TRY = """
import json, os, socket, sys
from pathlib import Path

def can(act):
    try:
        act()
    except OSError:
        return False
    return True

def connect(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        one.connect(path)

found = {"read": [], "write": [], "list": [], "connect": []}
for path in json.load(sys.stdin):
    for word, act in (
        ("read", lambda: open(path, "rb").close()),
        ("write", lambda: open(path, "ab").close()),
        ("list", lambda: os.listdir(path)),
        ("connect", lambda: connect(path)),
    ):
        if can(act):
            found[word].append(path)
print(json.dumps(found))
"""


def as_user(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run this Python as the relay's user."""
    return subprocess.run(
        [sys.executable, "-P", "-c", *arguments],
        user=USER,
        group=pwd.getpwnam(USER).pw_gid,
        extra_groups=(),
        cwd="/",
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may pass through, as one for services is."""
    try:
        why = as_user("import client.app, flwr.supernode.cli").stderr.strip()
    except OSError as error:
        why = str(error)
    if why:
        pytest.skip(f"user {USER!r} cannot run this Python ({why.splitlines()[-1]})")
    with short_folder() as folder:
        folder.chmod(0o711)
        yield folder


def attempts(paths: list[Path]) -> dict[str, set[Path]]:
    done = as_user(TRY, given=json.dumps([str(path) for path in paths]))
    assert done.returncode == 0, done.stderr
    return {word: {Path(path) for path in found} for word, found in json.loads(done.stdout).items()}


def relays(site: Path) -> dict[int, tuple[int, str]]:
    """Return process -> (user, mapped files) of the relay's host and of each relay forked there."""
    found = {}
    for process in processes(f"{site}/relay/home/relays.sock"):
        try:
            owner = Path(f"/proc/{process}").stat().st_uid
            found[process] = (owner, Path(f"/proc/{process}/maps").read_text())
        except OSError:  # it has ended
            continue
    return found


def run_of(world: World, study: Path, site: Path) -> tuple[Any, dict[int, tuple[int, str]]]:
    """Run a study; return what it gave, and every relay that was seen at work meanwhile."""
    running, seen = world.start("server", "run", "coordinator", study, "--json"), {}

    def is_over() -> bool:
        seen.update(relays(site))
        return running.poll() is not None

    until(is_over, what="the run", timeout_s=400.0)
    out, err = running.communicate()
    assert running.returncode == 0, err
    return json.loads(out), seen


def test_the_relays_user_has_a_round_computed_and_reads_nothing_of_the_hospital(
    folder: Path,
) -> None:
    study = study_file(folder / "study.toml", rounds={"count": 2, "quorum": 1})
    data = folder / "patients.csv"
    data.write_text(csv_text())
    data.chmod(0o600)
    with World(folder) as world:
        site = world.enrol("alpha", data, declared=PATIENTS, epsilon=9.0)
        world.run("site", "approve", "alpha", study, "--by", "Dr Test")
        world.run("server", "start", "coordinator")
        world.run("site", "start", "alpha", "--relay-user", USER)
        user = pwd.getpwnam(USER).pw_uid
        for program in ("client.running.supernode", "flower_superexec", "relay_host"):
            [process] = processes(rf"{program}.* .*{site}/relay/home")
            assert Path(f"/proc/{process}").stat().st_uid == user
        [agent] = processes(rf"client\.rpc\.service .*{site}")
        assert Path(f"/proc/{agent}").stat().st_uid == 0

        metrics, seen = run_of(world, study, site)
        assert metrics["missed"] == []
        assert len(seen) > 1, "no relay was seen beside the process that they are forked from"
        assert {owner for owner, _ in seen.values()} == {user}
        assert not any("torch" in mapped for _, mapped in seen.values())
        assert "torch" in Path(f"/proc/{agent}/maps").read_text()  # what is looked for exists

        # The agent is still up: its ledger is open, its doors are there.
        home = site / "relay" / "home"
        theirs = [path for path in site.rglob("*") if not path.is_relative_to(home)]
        theirs += [site, data, *(folder / "coordinator").rglob("*")]
        kept = {path.relative_to(site).parts[0] for path in theirs if site in path.parents}
        private = {"ledger.sqlite", "ledger.head", "policy.toml", "cohort.toml", "keys", "models"}
        assert private | {"approved", "approvals", "admin", "run", "kit"} <= kept
        could = attempts(theirs)
        assert could["read"] == could["write"] == could["list"] == set()
        assert could["connect"] == {site / "relay" / "agent.sock"}
        assert attempts([home / "node.key", home])["read"] == {home / "node.key"}
        assert (site / "admin" / "agent.sock").is_socket()
        world.run("site", "log", "alpha", "--verify")
