"""The heart study over TLS, four hospitals with a process each: the same weights as in process."""

from __future__ import annotations

import os
import tempfile
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.deployed_world import World, set_values

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("GRANDROUNDS_DATA" not in os.environ, reason="GRANDROUNDS_DATA is not set"),
]

STUDY = Path(__file__).parents[2] / "simulations" / "studies" / "heart.toml"


@pytest.fixture
def folder():
    # A Unix socket's path must be short, and pytest's own folders are not.
    with tempfile.TemporaryDirectory(prefix="gr-") as made:
        yield Path(made)


def test_a_deployed_study_gives_the_weights_of_its_simulation(folder):
    with World(folder) as world:
        world.run(
            *("sim", "run", STUDY, "--arms", "reptile", "--seeds", 1),
            *("--split", "keyed", "--out", "simulated"),
        )
        for simulated in sorted((folder / "simulated/sites/reptile-seed-0").iterdir()):
            cohort = tomllib.loads((simulated / "cohort.toml").read_text())
            policy = tomllib.loads((simulated / "policy.toml").read_text())
            name, data = cohort["name"], simulated / cohort["path"]
            site = world.enrol(name, data.resolve(), declared=cohort["declared"])
            # What a simulation knows and a real site keeps secret: how patients are parted, and
            # the noise. The policy must allow it, and everything the site prints says so.
            set_values(site / "cohort.toml", split_key=f'"{cohort["split_key"]}"')
            set_values(site / "policy.toml", noise_seed=str(policy["noise_seed"]))
            world.run("site", "approve", name, STUDY, "--by", "Dr Test")
        world.run("server", "start", "coordinator")
        for name in world.sites:
            world.run("site", "start", name)
        metrics = world.json("server", "run", "coordinator", STUDY)
        assert metrics["missed"] == []
        assert not metrics["privacy"]["private"]
        assert metrics["privacy"]["statement"].startswith("NOT PRIVATE: cleveland, hungary, ")
        deployed = world.weights(metrics["run"])
        expected = load_file(folder / "simulated" / "model.safetensors")
        assert deployed.keys() == expected.keys()
        assert all(torch.equal(deployed[k], expected[k]) for k in expected)
        for name in world.sites:
            assert "noise" in world.run("site", "status", name).lower()
            world.run("site", "log", name, "--verify")
