"""The same study and seed under both engines."""

import numpy as np
import pytest

from common.embedded import find_study
from common.study import load_study, parse_study
from server.store import Store
from simulations.runner import compare, prepare


def sampled_study():
    """The default study with a network, Poisson sampling and momentum: every source of noise."""
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    values["model"] = {"name": "mlp", "hidden": [8]}
    values["learner"] |= {"local_steps": 2, "sampling_rate": 0.5}
    values["server"] = {"optimizer": "momentum", "learning_rate": 0.5}
    values["rounds"]["count"] = 3
    values["simulation"] |= {"seeds": 1, "arms": ["reptile"]}
    return parse_study(values, origin="test")


@pytest.mark.slow
def test_flower_and_in_process_give_the_same_weights_and_releases(tmp_path):
    weights, released = {}, {}
    for engine in ("inprocess", "flower"):
        run_dir = tmp_path / engine
        study = sampled_study()
        prepare(study, run_dir)
        outcome = compare(study, run_dir, engine=engine, say=print).outcomes["reptile"][0]
        weights[engine] = outcome.params
        store = Store(run_dir)
        released[engine] = store.histograms("reptile-seed-0")
        code = store.job("reptile-seed-0")["code"]
        store.close()
    for name, value in weights["inprocess"].items():
        assert (value - weights["flower"][name]).abs().max().item() <= 1e-6
    assert released["inprocess"].keys() == released["flower"].keys()
    for site, (sigma, counts) in released["inprocess"].items():
        assert released["flower"][site][0] == sigma
        difference = np.array(released["flower"][site][1]) - np.array(counts)
        assert np.abs(difference).max() <= 1e-6
    assert "apps" in code  # Flower ran its bundle, not this folder
