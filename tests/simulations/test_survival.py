"""A study of survival as a user runs it: the concordance index everywhere, Cox without privacy."""

import json

import pytest

from common.schema import dump_toml
from tests.command_line import run_command
from tests.survival_world import csv_text, survival_study


@pytest.fixture
def study(tmp_path):
    sites = {}
    for seed, name in enumerate(("alpha", "beta")):
        (tmp_path / f"{name}.csv").write_text(csv_text(seed=seed, part=True))
        sites[name] = {"path": f"{name}.csv", "declared": 60}
    values = survival_study(
        simulation={
            "arms": ["majority", "local", "pooled", "fedavg", "cox"],
            "split": "given",
            "sites": sites,
            "arm": {
                "cox": {
                    "kind": "fedavg",
                    "private": False,
                    "note": "Cox's partial likelihood",
                    "rules": {"model": {"likelihood": "cox"}},
                }
            },
            "published": {
                "source": "Somebody",
                "rows": [{"method": "FedAvg", "mean_c_index": 0.7, "pooled_c_index": 0.71}],
            },
        },
    )
    file = tmp_path / "study.toml"
    file.write_text(dump_toml(values))
    return file


@pytest.mark.slow
def test_a_run_tells_the_concordance_index_of_every_arm(monkeypatch, capsys, tmp_path, study):
    out = tmp_path / "run"
    command = ("sim", "run", study, "--data", tmp_path, "--out", out)
    ended = run_command(monkeypatch, capsys, *command)
    assert ended.code == 0, ended.err
    assert "C-index" in ended.out
    assert "0.710" in ended.out  # published, pooled
    metrics = json.loads((out / "metrics.json").read_text())
    arms = metrics["arms"]
    assert arms["majority"]["mean_c_index"] == 0.5
    for name in ("pooled", "fedavg", "cox"):
        assert 0 < arms[name]["mean_c_index"] < 1
        assert 0 < arms[name]["pooled_c_index"] < 1
        assert metrics["sites"][0]["arms"][name]["c_index"] is not None
    assert arms["pooled"]["mean_c_index"] > 0.6
    assert arms["cox"]["mean_c_index"] > 0.5
    assert arms["cox"]["mean_brier"] is None  # scores that rank are no probabilities
    assert arms["fedavg"]["mean_brier"] is not None
    assert "Cox's partial likelihood; not private" in arms["cox"]["note"]
    assert "given the split" in metrics["split"]
    page = (out / "report.html").read_text()
    assert "mean C-index" in page
    assert "Pooled C-index" in page
    assert "C-index" in (out / "model_card.md").read_text()


def test_commands_of_classes_refuse_it(monkeypatch, capsys, tmp_path, study):
    ended = run_command(monkeypatch, capsys, "sim", "loho", study, "--data", tmp_path,
                        "--out", tmp_path / "loho")  # fmt: skip
    assert ended.code != 0
    assert "sim loho judges classes" in ended.err
