"""A model of eleven million parameters through agent, relay and SuperLink: what it costs each."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.params import misfit
from common.schema import dump_toml
from server.rounds.checkpoint import at_round, checkpoint_folder, load_state
from tests.deployed_world import World, processes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

SIZE, PATIENTS, ROUNDS = 28, 20, 2
SITES = ("a", "b")
PARAMETERS = 11_171_266
WEIGHTS = 4 * PARAMETERS  # bytes

# One private step a round, and so few and small images that memory is weights. What a step holds of
# activations grows with the pixels; of gradients it holds one record's, however many patients it
# samples, and one more where a patient has several records.
STUDY: dict[str, Any] = {
    "name": "large",
    "cohort": {
        "patient": "patient",
        "train_fraction": 0.6,
        "min_declared": PATIENTS,
        "label": {"column": "labels", "classes": ["well", "ill"]},
        "image": {"size": SIZE},
    },
    "model": {"name": "resnet18"},
    "learner": {"local_steps": 1, "learning_rate": 0.1, "sampling_rate": 0.5},
    "rounds": {"count": ROUNDS, "quorum": len(SITES)},
    "privacy": {"sigma": 4.0, "delta": 1e-3},
}


@pytest.fixture
def world() -> Iterator[World]:
    """A coordinator and hospitals that run and have approved the study."""
    with tempfile.TemporaryDirectory(prefix="gr-") as made, World(Path(made)) as world:
        (world.folder / "study.toml").write_text(dump_toml(STUDY))
        for seed, name in enumerate(SITES):
            rng = np.random.default_rng(seed)
            np.savez(
                world.folder / f"{name}.npz",
                images=rng.integers(0, 255, (PATIENTS, SIZE, SIZE), dtype=np.uint8),
                labels=np.array(["well", "ill"] * (PATIENTS // 2)),
                patient=np.array([f"p{i}" for i in range(PATIENTS)]),
            )
            data = world.folder / f"{name}.npz"
            world.enrol(name, data, declared=PATIENTS, epsilon=100.0)
            world.run("site", "approve", name, "study.toml", "--by", "Dr Test")
        world.run("server", "start", "coordinator")
        for command in [world.start("site", "start", name) for name in SITES]:
            _, said = command.communicate(timeout=300)
            assert command.returncode == 0, said
        yield world


def memory(process: int) -> dict[str, int]:
    """Return a process's memory in bytes, by the kernel's names."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    rows = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(value) for name, value, _ in rows}


def growth(now: dict[str, int], idle: dict[str, int]) -> int:
    """Return by how much a process's peak lies above its idle memory.

    What it mapped of libraries' files in between does not count: torch's code, which is read when a
    model first runs, belongs to no round and is shared with every other process.
    """
    return now["VmHWM"] - idle["VmRSS"] - (now["RssFile"] - idle["RssFile"])


def test_a_large_delta_passes_agent_relay_and_superlink_and_each_has_room_for_it(
    world: World,
) -> None:
    """The agent's limit is 1.5 times model, optimiser, gradients and delta, each a copy of weights.

    The model is its parameters, the optimiser the step's noisy sum, the gradients one record's, and
    the delta what is sent.
    """
    pids = {n: int((world.folder / n / "run" / "agent.pid").read_text()) for n in SITES}
    (link,) = processes(rf"flower_superlink .*{world.folder}/coordinator/")
    idle = {pid: memory(pid) for pid in (*pids.values(), link)}

    metrics = world.json("server", "run", "coordinator", "study.toml")

    assert metrics["missed"] == []
    assert [(s["name"], s["status"]) for s in metrics["sites"]] == [(n, "took part") for n in SITES]
    weights = world.weights(metrics["run"])
    run_dir = world.folder / "coordinator" / "runs" / metrics["run"]
    first = load_state(at_round(checkpoint_folder(run_dir, metrics["run"]), 0)).params
    assert sum(v.numel() for v in weights.values()) == PARAMETERS
    assert misfit(weights, first) is None
    assert all(bool(torch.any(weights[name] != first[name])) for name in first)

    grown = {pid: growth(memory(pid), idle[pid]) for pid in idle}
    for name, pid in pids.items():
        assert grown[pid] <= 1.5 * 4 * WEIGHTS, f"{name}: {grown[pid] / 1e6:.0f} MB"
    # The SuperLink's database, and its log of changes, keep the messages of one round and not those
    # before it; each message passes through several copies in its memory.
    of_a_round = (1 + len(SITES)) * WEIGHTS
    kept = sum(p.stat().st_size for p in (world.folder / "coordinator").glob("state.db*"))
    assert kept <= 2 * of_a_round, f"state.db: {kept / 1e6:.0f} MB"
    assert grown[link] <= 6 * of_a_round, f"SuperLink: {grown[link] / 1e6:.0f} MB"
