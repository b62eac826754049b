"""The few-shot studies on real data: what they were set up to show."""

import json
import os

import pytest

from common.embedded import find_study
from common.schema import dump_toml
from common.study import load_study
from tests.command_line import run_command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("GRANDROUNDS_DATA"),
        reason="GRANDROUNDS_DATA does not name the data folder",
    ),
]


def few_shot(monkeypatch, capsys, folder, name, **changes):
    """Run an embedded study with its few-shot table changed; return its metrics."""
    values = load_study(find_study(name)).model_dump(mode="json")
    table = values["simulation"]["fewshot"]
    kept = changes.pop("methods", None)
    if kept:
        table["methods"] = [m for m in table["methods"] if m["name"] in kept]
    table.update(changes)
    (folder / "study.toml").write_text(dump_toml(values))
    ended = run_command(monkeypatch, capsys, "sim", "fewshot", folder / "study.toml",
                        "--out", folder / "run", "--json")  # fmt: skip
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_a_brain_tumour_is_told_from_few_slices(monkeypatch, capsys, tmp_path):
    """Privately trained, epsilon 8: at least .47 and .60, measured .540 and .685 (40 episodes)."""
    found = few_shot(monkeypatch, capsys, tmp_path, "rare_disease",
                     held_out=["brain_mri"], episodes=6, methods=["fedrep+all"])  # fmt: skip
    shots = found["held_out"]["brain_mri"]["shots"]
    assert shots["5"]["fedrep+all"]["epsilon"] <= 8
    assert shots["5"]["fedrep+all"]["accuracy"] >= 0.47
    assert shots["20"]["fedrep+all"]["accuracy"] >= 0.60


def test_a_new_review_starts_from_what_others_judged(monkeypatch, capsys, tmp_path):
    found = few_shot(monkeypatch, capsys, tmp_path, "screening", held_out=["estrogens"],
                     episodes=6, methods=["reptile-open+prior"])  # fmt: skip
    rows = found["mean"]["5/20"]
    assert rows["reptile-open+prior"]["auc"] > rows["logistic_inputs"]["auc"]
