"""Flower's ServerApp: what it reads from the run configuration, and how each ending is recorded."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

import client.app
import server.app
import server.rounds.loop
from client.agent import close_agents
from common.errors import GrandroundsError, RunError, StudyError
from common.models import initial_params
from common.plan import write_plan
from common.running import daemon
from common.wire import unpack
from server.rounds.checkpoint import at_round, checkpoint_folder, load_state
from server.rounds.federation import LOG
from server.store import Store, program
from simulations.grid import ClientCallable, InProcessGrid, server_context
from tests.small_world import hospital, small_plan

SITES = ("alpha", "beta")


@pytest.fixture
def config(tmp_path: Path) -> Iterator[dict[str, Any]]:
    close_agents()
    # Random initial weights, so that the seed shows.
    plan = small_plan(model={"name": "mlp", "hidden": [3]}, rounds={"count": 2})
    (tmp_path / "run").mkdir()
    for seed, name in enumerate(SITES):
        hospital(tmp_path / "sites" / name, plan, seed=seed)
    yield {
        "run-dir": str(tmp_path / "run"),
        "plan": str(write_plan(plan, tmp_path)),
        "sites-dir": str(tmp_path / "sites"),
        "job": "main",
        "seed": 5,
        "nodes": 2,
    }
    close_agents()


def start(config: dict[str, Any], client_app: ClientCallable = client.app.app) -> None:
    nodes = {number + 1: {"partition-id": number} for number in range(len(SITES))}
    server.app.app(
        InProcessGrid(client_app, nodes=nodes, run_config=config), server_context(config)
    )


def job(config: dict[str, Any]) -> dict[str, Any]:
    store = Store(Path(config["run-dir"]))
    row = store.job(config["job"])
    store.close()
    assert row is not None
    return row


def state(config: dict[str, Any], number: int) -> Any:
    return load_state(at_round(checkpoint_folder(Path(config["run-dir"]), config["job"]), number))


def test_a_run_ends_finished_with_its_study_and_its_code_on_record(
    config: dict[str, Any], tmp_path: Path
) -> None:
    start(config)
    row = job(config)
    assert (row["status"], row["message"], row["remedy"]) == ("finished", "", "")
    assert row["digest"] == Path(config["plan"]).stem
    assert row["code"] == str(Path(server.app.__file__).parent)
    assert state(config, 2).round == 2


def test_the_seed_gives_the_initial_weights(config: dict[str, Any]) -> None:
    start(config)
    study = small_plan(model={"name": "mlp", "hidden": [3]}, rounds={"count": 2}).study
    for name, value in initial_params(study, seed=5).items():
        assert torch.equal(state(config, 0).params[name], value)


def test_an_interrupt_is_recorded_and_the_run_resumes(config: dict[str, Any]) -> None:
    def interrupted(message: Message, context: Context) -> Message:
        if unpack(message.content).header["round"] == 2:
            raise KeyboardInterrupt
        return client.app.app(message, context)

    with pytest.raises(KeyboardInterrupt):
        start(config, interrupted)
    row = job(config)
    assert (row["status"], row["remedy"]) == ("interrupted", "resume the run")
    start(config)
    assert job(config)["status"] == "finished"
    assert job(config)["message"] == ""


def test_a_failure_is_recorded_with_its_message_and_remedy(config: dict[str, Any]) -> None:
    def failing(message: Message, context: Context) -> Message:
        raise OSError("cable")

    with pytest.raises(RunError, match="cable") as caught:
        start(config, failing)
    row = job(config)
    assert row["status"] == "failed"
    assert (row["message"], row["remedy"]) == (caught.value.message, caught.value.remedy)


def test_a_full_disk_is_one_clear_message_and_the_run_resumes(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: Any, *args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(server.rounds.loop, "save_state", full)
        with pytest.raises(RunError, match=r"disk of .* is full") as caught:
            start(config)
    assert config["run-dir"] in caught.value.message
    assert caught.value.remedy == "free some space, then resume the run"
    start(config)
    assert job(config)["status"] == "finished"


def test_another_error_of_the_system_is_not_called_a_full_disk(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(state: Any, *args: Any, **options: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(server.rounds.loop, "save_state", broken)
    with pytest.raises(OSError, match="Input/output"):
        start(config)


def test_a_deployed_run_has_one_program_which_holds_the_folder_until_it_ends(
    config: dict[str, Any],
) -> None:
    deployed = {**config, "sites-dir": ""}
    pid_file = program(Path(config["run-dir"]))
    holders = []

    def looking(message: Message, context: Context) -> Message:
        holders.append(daemon.holder(pid_file))
        raise OSError("cable")

    with pytest.raises(RunError, match="cable"):
        start(deployed, looking)
    assert set(holders) == {os.getpid()}
    assert daemon.holder(pid_file) is None
    before = job(config)
    with daemon.hold(pid_file), pytest.raises(RunError, match="runs already"):
        start(deployed, looking)
    assert job(config) == before  # the program that runs has the word


def test_a_job_is_not_resumed_with_another_study(config: dict[str, Any], tmp_path: Path) -> None:
    start(config)
    other = write_plan(small_plan(name="other"), tmp_path)
    with pytest.raises(RunError, match="ran with study"):
        start({**config, "plan": str(other)})
    assert job(config)["digest"] == Path(config["plan"]).stem


def test_an_edited_plan_is_refused_before_anybody_is_asked(config: dict[str, Any]) -> None:
    path = Path(config["plan"])
    path.write_text(path.read_text().replace("clip = 1.0", "clip = 2.0"))
    with pytest.raises(StudyError, match="does not hold the study"):
        start(config, lambda message, context: pytest.fail("a hospital was asked"))


def test_two_jobs_share_a_run_folder(config: dict[str, Any], tmp_path: Path) -> None:
    start(config)
    for name in SITES:
        policy = tmp_path / "sites" / name / "policy.toml"
        policy.write_text(policy.read_text().replace("runs = 1", "runs = 2"))

    close_agents()
    second = {**config, "job": "second", "seed": 6}
    start(second)
    assert job(config)["status"] == job(second)["status"] == "finished"
    first_weights, second_weights = state(config, 0).params, state(second, 0).params
    assert any(not torch.equal(v, second_weights[k]) for k, v in first_weights.items())


def test_a_failure_says_what_to_do(config: dict[str, Any]) -> None:
    with pytest.raises(GrandroundsError) as caught:
        start({**config, "plan": config["plan"] + ".absent"})
    assert caught.value.remedy


def test_delivery_leaves_the_run_finished_and_is_on_record(config: dict[str, Any]) -> None:
    start(config)
    before = job(config)
    start({**config, "mode": "deliver"})
    assert job(config) == before
    store = Store(Path(config["run-dir"]))
    found = {r["site"]: r["status"] for r in store.replies("main") if r["phase"] == "deliver"}
    store.close()
    assert found == dict.fromkeys(SITES, "ok")


def test_a_delivery_before_the_end_does_not_mark_the_run(config: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="no model yet"):
        start({**config, "mode": "deliver"})
    store = Store(Path(config["run-dir"]))
    assert store.job("main") is None
    store.close()


def test_an_unknown_mode_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="mode is 'demo'") as caught:
        start({**config, "mode": "demo"})
    assert "run, deliver" in caught.value.remedy


class FlowersGrid(InProcessGrid):
    """An in-process grid that looks like one of Flower's own."""


FlowersGrid.__module__ = "flwr.superlink.grid"


def test_where_flower_runs_the_app_its_log_says_what_happens(
    config: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOG, "handlers", [])
    nodes = {number + 1: {"partition-id": number} for number in range(len(SITES))}
    grid = FlowersGrid(client.app.app, nodes=nodes, run_config=config)
    try:
        server.app.app(grid, server_context(config))
    finally:
        LOG.setLevel("NOTSET")
    assert "INFO main: aggregation mean: bears 0 lying of 2 hospitals" in capsys.readouterr().err
