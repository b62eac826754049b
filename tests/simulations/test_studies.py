"""The shipped studies reach what they were set up for, on seeds that nothing was tuned on."""

import json
import os
from pathlib import Path

import pytest

from tests.command_line import run_command

needs_data = pytest.mark.skipif(
    not os.environ.get("GRANDROUNDS_DATA"), reason="GRANDROUNDS_DATA does not name the data folder"
)


def run(monkeypatch, capsys, *arguments):
    ended = run_command(monkeypatch, capsys, "sim", "run", *arguments, "--json")
    assert ended.code == 0
    return json.loads(ended.out)


@pytest.mark.slow
@needs_data
def test_heart_reaches_its_targets_under_both_splits(monkeypatch, capsys, tmp_path):
    arms = ("--arms", "local,pooled,reptile")
    found = run(monkeypatch, capsys, "heart", *arms, "--out", str(tmp_path / "stratified"))
    assert found["seeds"] == 20
    assert found["privacy"]["epsilon"] <= 1
    adapted = found["arms"]["reptile"]["adapted"]
    assert adapted["mean_accuracy"] >= 0.835
    assert adapted["mean_auc"] >= 0.84
    keyed = run(monkeypatch, capsys, "heart", *arms, "--split", "keyed",
                "--out", str(tmp_path / "keyed"))  # fmt: skip
    other = keyed["arms"]["reptile"]["adapted"]
    assert abs(other["mean_accuracy"] - adapted["mean_accuracy"]) <= 0.015
    assert abs(other["mean_auc"] - adapted["mean_auc"]) <= 0.015


@pytest.mark.slow
def test_the_default_study_helps_the_hospitals(monkeypatch, capsys, tmp_path):
    found = run(monkeypatch, capsys, "--out", str(tmp_path / "run"))
    local, adapted = found["arms"]["local"], found["arms"]["reptile"]["adapted"]
    assert adapted["mean_brier"] < local["mean_brier"]
    assert adapted["mean_accuracy"] > local["mean_accuracy"]
    assert adapted["mean_auc"] > local["mean_auc"]
    assert Path(found["run_dir"], "report.html").stat().st_size < 1_000_000
