"""A model of eleven million parameters through a real agent's process: what it costs in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from client.policy import Policy
from client.rpc import admin
from client.rpc.relay import ask_agent
from client.site import CohortConfig, write_site
from common.codec import decode, encode
from common.models import build, params_of
from common.params import misfit
from common.plan import Plan, compile_study
from common.study import parse_study
from common.wire import Envelope
from tests.deployed_world import until

pytestmark = pytest.mark.slow

SIZE, PATIENTS = 28, 6
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Two private steps a round on ResNet-18, and so few and small images that memory is weights.

    What a step holds of activations grows with the pixels; of gradients it holds one record's,
    however many patients it samples, and one more where a patient has several records.
    """
    values = {
        "name": "large",
        "cohort": {
            "patient": "patient",
            "train_fraction": 0.6,
            "min_declared": PATIENTS,
            "label": {"column": "labels", "classes": ["well", "ill"]},
            "image": {"size": SIZE},
        },
        "model": {"name": "resnet18"},
        "learner": {"local_steps": 2, "learning_rate": 0.1},
        "rounds": {"count": 2},
        "privacy": {"sigma": 4.0, "delta": 1e-3},
    }
    return compile_study(parse_study(values, origin="a test"))


@pytest.fixture
def site(plan: Plan) -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="gr-"))  # a short path: it holds a socket
    rng = np.random.default_rng(0)
    np.savez(
        parent / "images.npz",
        images=rng.integers(0, 255, (PATIENTS, SIZE, SIZE), dtype=np.uint8),
        labels=np.array(["well", "ill"] * (PATIENTS // 2)),
        patient=np.array([f"p{i}" for i in range(PATIENTS)]),
    )
    cohort = CohortConfig(
        name="site",
        path=parent / "images.npz",
        declared=PATIENTS,
        split_key="07" * 16,
        device="cpu",
    )
    (parent / "site").mkdir()
    policy = Policy(epsilon=100.0, delta=1e-2)
    write_site(parent / "site", cohort=cohort, policy=policy, plans=[plan])
    yield parent / "site"
    shutil.rmtree(parent)


def memory(process: int) -> dict[str, int]:
    """Return a process's memory in bytes, by the kernel's names."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    rows = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(value) for name, value, _ in rows}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_agent_grows_by_no_more_than_six_copies_of_a_large_models_weights(
    plan: Plan, site: Path
) -> None:
    """The limit is 1.5 times model, optimiser, gradients and delta, a copy of the weights each.

    The model is its parameters, the optimiser the step's noisy sum, the gradients one record's, and
    the delta what is sent. Against it stands the process's peak resident memory less that when
    it was idle, less what it mapped of libraries' files in between: torch's code, which is read
    when a model first runs, belongs to no round and is shared with every other process.
    """
    weights = encode(params_of(build(plan.study)))
    command = [sys.executable, "-P", "-m", "client.rpc.service", str(site)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (site / "agent.log").open("wb") as log:
        agent = subprocess.Popen(command, cwd=ROOT, stderr=log, env=environment)
    try:
        until(lambda: admin.is_running(site), what="the agent's start")
        idle = memory(agent.pid)
        for number in (1, 2):
            asked = {"kind": "train", "digest": plan.digest, "run": "r1", "round": number}
            answer = ask_agent(f"unix:{site}/relay/agent.sock", Envelope(asked, weights))
            assert answer.header["status"] == "ok", answer.header
            delta = decode(answer.payload)
            assert sum(v.numel() for v in delta.values()) > 11e6
            assert misfit(delta, decode(weights)) is None
            assert any(bool(torch.any(v != 0)) for v in delta.values())
            now = memory(agent.pid)
            libraries = now["RssFile"] - idle["RssFile"]
            growth = now["VmHWM"] - idle["VmRSS"] - libraries
            figures = f"{growth / 1e6:.0f} MB and {libraries / 1e6:.0f} MB of libraries' code"
            assert growth <= 1.5 * 4 * len(weights), figures
    finally:
        agent.terminate()
        assert agent.wait(60) == 0
