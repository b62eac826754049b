"""What a run over real hospitals says of itself: no more than left them, and no promise unkept."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from common.report.page import report_html
from server.results import run_metrics, write_model
from tests.federated_world import Faulty, World, breaks
from tests.small_world import roomy


def metrics_of(world: World) -> dict:
    return run_metrics(world.plan, world.run_dir, "main", seconds=1.5)


def secret_noise(world: World) -> World:
    """Give every hospital the cryptographic source that real ones have."""
    for folder in world.sites.iterdir():
        policy = roomy(world.plan, epsilon=1e3, noise_seed=None)
        text = "".join(
            f"{k} = {json.dumps(v)}\n"
            for k, v in policy.model_dump(mode="json").items()
            if v is not None
        )
        (folder / "policy.toml").write_text(text)
    return world


def test_a_run_of_real_hospitals_has_no_exact_figure(world):
    secret_noise(world).run()
    metrics = metrics_of(world)
    assert metrics["engine"] == "deployment"
    assert metrics["arms"] == {}
    assert metrics["curves"] == {}
    assert [s["name"] for s in metrics["sites"]] == ["alpha", "beta", "gamma"]
    assert all(s["train_patients"] is None and s["arms"] == {} for s in metrics["sites"])
    assert all(s["private"]["histogram"]["sigma"] > 0 for s in metrics["sites"])
    assert metrics["privacy"]["private"]
    assert metrics["missed"] == []
    json.dumps(metrics, allow_nan=False)


def test_seeded_noise_takes_the_promise_back(world):
    # Broken once: a coordinator that ignores the word prints an epsilon that nothing holds up.
    world.run()
    privacy = metrics_of(world)["privacy"]
    assert not privacy["private"]
    assert privacy["statement"].startswith("NOT PRIVATE: alpha, beta, gamma used seeded noise")
    page = report_html(metrics_of(world))
    assert "NOT PRIVATE" in page
    assert "Without privacy" in page


def test_who_missed_what_is_told(world):
    world.run(Faulty({("beta", "train", 2): breaks}))
    (row,) = metrics_of(world)["missed"]
    assert (row["site"], row["round"], row["phase"]) == ("beta", 2, "train")
    assert row["status"] == "failed"


def test_the_model_names_its_study(world, tmp_path):
    state = world.run()
    write_model(tmp_path, state.params, digest=world.plan.digest)
    with safe_open(tmp_path / "model.safetensors", "pt") as model:
        assert model.metadata() == {"digest": world.plan.digest}
        assert sorted(model.keys()) == sorted(state.params)


def test_the_epsilon_is_the_largest_receipt(world):
    secret_noise(world).run()
    metrics = metrics_of(world)
    assert metrics["privacy"]["epsilon"] == pytest.approx(world.plan.epsilon)
