"""The coordinator's side of an effect: tables, a quorum, a deployed run's end, pooling."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import client.app
from client.agent import close_agents
from common.errors import DataError, RunError, StudyError
from common.meta.released import Released
from common.plan import write_plan
from common.report.words import DEPLOYED
from server.commands.runs import _show as show
from server.deployment import Run, finish
from server.effects import effect_metrics, effects_of, measures_of
from server.house.home import Home
from server.pooling import from_run, left_out
from server.rounds.delivery import deliver
from server.rounds.federation import Federation
from server.rounds.loop import collect_effects
from server.store import FLOWER, Store
from simulations.grid import InProcessGrid
from tests.effect_world import DECLARED, centre_csv, effect_plan
from tests.small_world import hospital, roomy, small_plan

PLAN = effect_plan()
NAMES = ("indiana", "kentucky", "michigan")


class Trial:
    """A coordinator's folder with one run, and the trial's centres that answer it."""

    def __init__(self, folder: Path, *, barred: tuple[str, ...] = ()) -> None:
        self.run_dir = folder / "coordinator" / "runs" / "trial"
        (self.run_dir / "plans").mkdir(parents=True)
        write_plan(PLAN, self.run_dir / "plans")
        (self.run_dir / FLOWER).write_text(json.dumps({"seed": 0, "runs": []}))
        self.sites = folder / "sites"
        for name in NAMES:
            releases = ("train",) if name in barred else ("effect",)
            text, policy = centre_csv(name), roomy(PLAN, epsilon=50.0, releases=releases)
            hospital(self.sites / name, PLAN, policy=policy, text=text, declared=DECLARED[name])
        self.store = Store(self.run_dir)

    def federation(self) -> Federation:
        nodes = {10 + i: {"partition-id": i} for i in range(len(NAMES))}
        grid = InProcessGrid(client.app.app, nodes=nodes, run_config={"sites-dir": str(self.sites)})
        return Federation(grid, PLAN, "trial", self.store, self.run_dir, expected=3)

    def collect(self) -> None:
        self.store.start("trial", digest=PLAN.digest, code="")
        collect_effects(self.federation())
        self.store.end("trial", status="finished")


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    world = Trial(tmp_path)
    yield world
    world.store.close()
    close_agents()


def test_each_hospital_is_asked_once_and_its_table_is_kept_with_its_noise(trial: Trial) -> None:
    trial.collect()
    tables = trial.store.histograms("trial")
    assert set(tables) == set(NAMES)
    assert {sigma for sigma, _ in tables.values()} == {PLAN.release_sigma}
    phases = {(r["phase"], r["round"]) for r in trial.store.replies("trial")}
    assert phases == {("evaluate", 0)}
    collect_effects(trial.federation())  # a run resumed: the same answers, nothing paid again
    assert trial.store.histograms("trial") == tables


def test_too_few_tables_are_a_message_that_says_who_refused(tmp_path: Path) -> None:
    world = Trial(tmp_path, barred=("indiana", "michigan"))
    told = r"the effect: 1 of 3 hospitals answered, .*indiana refused: kind of release"
    with closing(world.store), pytest.raises(RunError, match=told):
        collect_effects(world.federation())
    close_agents()


def test_a_deployed_run_ends_with_a_page_and_no_model(
    trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    trial.collect()
    home = cast(Home, SimpleNamespace(folder=trial.run_dir.parents[1]))
    metrics = finish(Run(home, "trial"), seconds=1.0)
    assert metrics["engine"] == DEPLOYED
    assert metrics["exact"] is None
    assert metrics["privacy"]["statement"].startswith("NOT PRIVATE")  # the test's noise is seeded
    assert {s["name"] for s in metrics["sites"]} == set(NAMES)
    assert "Effect of a treatment" in (trial.run_dir / "report.html").read_text()
    assert not (trial.run_dir / "model.safetensors").exists()
    assert from_run(trial.run_dir)["estimate"] == metrics["pooled"]["estimate"]
    show(metrics)
    assert "privacy noise" in capsys.readouterr().out
    with pytest.raises(StudyError, match="trains nothing, and server deliver"):
        deliver(trial.federation())


def test_a_mean_is_told_in_the_numbers_own_unit(tmp_path: Path) -> None:
    plan = effect_plan(effect={"kind": "mean", "outcome": "age"})
    assert measures_of(plan) == ("MD",)
    sums = [[[100.0, 20.0, 30.0], [100.0, 10.0, 30.0]]]
    with closing(Store(tmp_path)) as store:
        store.start("job", digest=plan.digest, code="")
        store.histogram("job", site="a", sigma=plan.release_sigma, counts=sums)
        assert effects_of(plan, store, "job", measure="MD")["a"].value == pytest.approx(5.0)


def test_what_can_be_pooled_follows_from_the_study() -> None:
    assert measures_of(PLAN) == ("OR", "RR", "RD")
    assert measures_of(small_plan()) == ("AUC", "OE")


LOHO: dict[str, Any] = {
    "shots": [0],
    "held_out": {
        "a": {"0": {"reptile": {"auc": 0.8, "auc_low": 0.7, "auc_high": 0.87,
                                "observed_expected": 1.25}}},
        "b": {"0": {"reptile": {"auc": None, "auc_low": None, "auc_high": None,
                                "observed_expected": None}}},
    },
    "centres": [
        {"name": "a", "status": "took part", "patients": 100.0, "outcomes": 20.0},
        {"name": "b", "status": "took part", "patients": 10.0, "outcomes": 0.0},
    ],
}  # fmt: skip


def test_hospitals_left_out_are_pooled_from_their_exact_figures() -> None:
    auc = left_out(LOHO, measure="AUC", arm="reptile", shots="0")
    assert auc["a"].noise == 0
    assert auc["a"].value == pytest.approx(1.386294)
    assert "not defined" in auc["b"].why
    ratio = left_out(LOHO, measure="OE", arm="reptile", shots="0")
    assert ratio["a"].variance == pytest.approx(1 / 20 - 1 / 100)
    assert ratio["b"] == Released(None, None, None, why="its O/E is not defined")
    with pytest.raises(RunError, match="no arm 'maml' with 0 labelled patients"):
        left_out(LOHO, measure="AUC", arm="maml", shots="0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"job": "other"}, "no job 'other'"),
        ({"shots": 3}, "--shots is 3"),
        ({"arm": "reptile"}, "--arm is reptile"),
        ({"measure": "HR"}, "--measure is 'HR'"),
        ({"method": "MLE"}, "method is 'MLE'"),
    ],
)
def test_what_a_run_has_not_is_named(trial: Trial, options: Any, message: str) -> None:
    trial.collect()
    values = effect_metrics(PLAN, trial.run_dir, "trial", engine="", privacy={}, seconds=0.0)
    (trial.run_dir / "metrics.json").write_text(json.dumps(values))
    with pytest.raises((RunError, StudyError, DataError), match=message):
        from_run(trial.run_dir, **options)
