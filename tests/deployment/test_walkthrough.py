"""The README's walkthrough, run as it stands: what a reader copies and pastes does work."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from simulations.deployed import free_port
from tests.deployed_world import World
from tests.documents import ROOT, blocks, section

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("GRANDROUNDS_DATA" not in os.environ, reason="GRANDROUNDS_DATA is not set"),
]

README = (ROOT / "README.md").read_text(encoding="utf-8")
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
_INIT = "grandrounds server init walkthrough/coordinator --host localhost\n"
_TIMEOUT_S = 1800


def script() -> str:
    """Return the walkthrough; on another port where someone has the usual one."""
    text = "".join(blocks(section(README, "Real hospitals"), "bash"))
    assert text.count(_INIT) == 1
    if is_free(9092):
        return text
    return text.replace(_INIT, f"{_INIT.rstrip()} --port {free_port()}\n")


def is_free(port: int) -> bool:
    """Tell whether nobody listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def run(folder: Path) -> str:
    """Run the walkthrough in a folder as a reader would; return what it printed."""
    (folder / "simulations").symlink_to(ROOT / "simulations")
    (folder / "script.sh").write_text(script(), encoding="utf-8")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    printed = folder / "printed.txt"
    with printed.open("w") as out:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "script.sh"],
            cwd=folder,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = process.wait(timeout=_TIMEOUT_S)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    assert code == 0, printed.read_text()
    return printed.read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which the walkthrough was run; a short path, as sockets need."""
    made = World(tmp_path_factory.mktemp("w"))
    try:
        made.printed = run(made.folder)
        yield made
    finally:
        for name in HOSPITALS:
            made.call("site", "stop", f"walkthrough/{name}")
        made.call("server", "stop", "walkthrough/coordinator")


def metrics(world: World) -> Any:
    """Return the metrics of the one run."""
    (path,) = (world.folder / "walkthrough/coordinator/runs").glob("*/metrics.json")
    return json.loads(path.read_text())


def test_the_study_finishes_with_all_four_hospitals(world):
    found = metrics(world)
    assert found["missed"] == []
    assert [(s["name"], s["status"]) for s in found["sites"]] == [
        (name, "took part") for name in HOSPITALS
    ]
    status = world.json("server", "status", "walkthrough/coordinator")
    assert [(run["state"], run["rounds_done"]) for run in status["runs"]] == [("finished", 6)]


def test_each_ledger_is_whole_and_says_what_was_spent(world):
    assert world.printed.count("Verified") == len(HOSPITALS)
    for name in HOSPITALS:
        log = world.json("site", "log", f"walkthrough/{name}", "--verify")
        assert log["verified"]["ok"]
        budget = world.json("site", "budget", f"walkthrough/{name}")
        assert budget["epsilon"]["spent"] == pytest.approx(1.0, abs=1e-3)
        assert list((world.folder / "walkthrough" / name / "models").glob("*/model.safetensors"))


def test_the_model_predicts_the_new_cases(world):
    with (world.folder / "walkthrough/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        odds = [float(v) for name, v in row.items() if name.startswith("probability")]
        assert sum(odds) == pytest.approx(1.0, abs=1e-4)


def test_nothing_runs_afterwards_and_nothing_lies_elsewhere(world):
    for name in HOSPITALS:
        assert world.json("site", "stop", f"walkthrough/{name}")["stopped"] is False
        assert world.json("site", "status", f"walkthrough/{name}")["running"] is False
    assert world.json("server", "status", "walkthrough/coordinator")["running"] is False
    assert {path.name for path in world.folder.iterdir()} == {
        *("walkthrough", "simulations"),
        *("script.sh", "printed.txt"),  # this test's own
    }


def test_the_readme_names_the_keys_of_json(world):
    text = README[README.index("### `--json`") :]
    site = "walkthrough/cleveland"
    for values in (
        world.json("site", "status", site),
        world.json("site", "budget", site),
        world.json("site", "log", site, "--verify"),
        {k: v for k, v in metrics(world).items() if k in ("run", "sites", "missed", "privacy")},
    ):
        for key in keys(values):
            assert f"`{key}`" in text, key
    assert {"run", "sites", "missed", "pooled_private", "remarks"} <= metrics(world).keys()


def keys(values: Mapping[str, Any]) -> set[str]:
    """Return the keys of an answer and of the rows of its lists; not of maps by name or entries."""
    found = set(values)
    for name in ("studies", "burn_down", "entries", "missed"):
        found |= {key for row in values.get(name, ()) for key in row}
    for name in ("epsilon", "delta", "verified"):
        found |= set(values.get(name) or ())
    return found
