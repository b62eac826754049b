"""A simulated trial: its centres release their tables, and a run folder is pooled anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Ended, run_command
from tests.effect_world import study_with_centres

CONTRACT = {
    "measure", "method", "k", "estimate", "se", "ci_low", "ci_high", "tau2", "tau2_low",
    "tau2_high", "i2", "q", "q_p", "prediction_low", "prediction_high", "egger", "trim_and_fill",
    "studies",
}  # fmt: skip


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRANDROUNDS_DATA", raising=False)

    def run(*arguments: Any) -> Ended:
        return run_command(monkeypatch, capsys, *arguments)

    return run


def simulate(cli, tmp_path: Path, *options: Any, **tables: Any) -> dict[str, Any]:
    path = study_with_centres(tmp_path, **tables)
    ended = cli("sim", "run", path, "--data", tmp_path, "--out", "run", "--json", *options)
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


@pytest.mark.slow
def test_without_privacy_every_centre_large_enough_gives_its_exact_table(cli, tmp_path):
    found = simulate(cli, tmp_path, "--epsilon", "none", cohort={"min_declared": 3})
    assert found["pooled"]["ratio"]["estimate"] == pytest.approx(0.5001, abs=1e-4)
    assert found["pooled"]["k"] == 3
    assert [row["name"] for row in found["pooled"]["left_out"]] == ["western"]
    assert found["exact"]["pooled"]["estimate"] == pytest.approx(found["pooled"]["estimate"])
    assert found["privacy"]["private"] is False
    tables = {site["name"]: site["table"] for site in found["sites"]}
    assert tables["michigan"] == {"sigma": 0.0, "treated": [66.0, 11.0], "control": [62.0, 25.0]}


@pytest.mark.parametrize("epsilon", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_with_noise_the_three_centres_cover_the_exact_answer_and_pooled_anew_say_the_same(
    cli, tmp_path, epsilon
):
    found = simulate(cli, tmp_path, "--epsilon", epsilon)
    assert found["pooled"].keys() >= CONTRACT
    left = {site["name"]: site["status"] for site in found["sites"] if not site["effect"]}
    assert set(left) == {"western"}
    exact, pooled = found["exact"]["pooled"], found["pooled"]
    assert pooled["ci_low"] < exact["estimate"] < pooled["ci_high"]
    assert pooled["ci_high"] - pooled["ci_low"] > exact["ci_high"] - exact["ci_low"]
    assert pooled["width"]["noise"] > 0.02
    assert sum(pooled["width"].values()) == pytest.approx(1)
    assert found["privacy"]["epsilon"] == pytest.approx(epsilon, abs=0.01)
    assert [r["what"] for r in found["privacy"]["releases"]] == ["table of an effect"]
    again = json.loads(cli("meta", "run", "run", "--json").out)
    assert {n: again[n] for n in CONTRACT} == {n: pooled[n] for n in CONTRACT}
    assert cli("audit", "ledger", "run").code == 0
    page = Path("run/report.html").read_text()
    assert "Forest plot" in page
    assert "privacy noise" in page
    assert not Path("run/model_card.md").exists()


@pytest.mark.slow
def test_other_measures_of_the_same_release_cost_nothing_more(cli, tmp_path):
    simulate(cli, tmp_path, "--epsilon", "none")
    cli("meta", "run", "run", "--measure", "rd", "--plot", "pictures")
    assert "risk difference" in Path("pictures/meta.html").read_text()
    told = cli("meta", "run", "run", "--measure", "AUC")
    assert told.code == 2
    assert "this run's hospitals tell OR, RR, RD" in told.err


@pytest.mark.slow
def test_means_are_pooled_in_the_numbers_own_unit(cli, tmp_path):
    found = simulate(cli, tmp_path, "--epsilon", "none", effect={"kind": "mean", "outcome": "age"})
    assert found["measure"] == "MD"
    assert found["pooled"] is None  # every patient is 50
    assert "no variance" in found["why"]


@pytest.mark.slow
def test_where_all_are_too_noisy_the_run_ends_and_says_so(cli, tmp_path):
    found = simulate(cli, tmp_path, "--epsilon", "0.02")
    assert found["pooled"] is None
    assert "too noisy" in found["why"]
    told = cli("meta", "run", "run")
    assert told.code == 2
    assert "no hospital's effect can be pooled" in told.err
    assert "Traceback" not in told.err


MISTAKES = {
    "loho": (("sim", "loho"), (), "trains nothing, and sim loho"),
    "fewshot": (("sim", "fewshot"), (), "trains nothing, and sim fewshot"),
    "arms": (("sim", "run"), ("--arms", "local"), "simulation.arms is ['local']"),
    "seeds": (("sim", "run"), ("--seeds", 3), "simulation.seeds is 3"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_command_about_training_is_refused(cli, tmp_path, mistake):
    command, options, message = MISTAKES[mistake]
    path = study_with_centres(tmp_path)
    told = cli(*command, path, "--data", tmp_path, "--out", "run", *options)
    assert told.code == 2
    assert message in told.err


def test_meta_run_names_what_a_folder_is_not(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (("nowhere", "there is no run folder"), ("empty", "metrics.json")):
        told = cli("meta", "run", folder)
        assert told.code == 3
        assert message in told.err
