"""Leave one hospital out: who trains, who is drawn, and what is said."""

import json

import numpy as np
import pytest
import torch

from common.cohort.parts import Part
from common.study import load_study, parse_study
from simulations.loho import ARMS, _draws, _intercept, leave_one_out
from simulations.loho_results import loho_metrics
from simulations.runner import prepare
from simulations.settings import find_study
from tests.command_line import run_command


def small_study(**loho):
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    values["rounds"] |= {"count": 2, "quorum": 2}
    values["simulation"]["loho"] = {"draws": 3, "shots": [0, 8], **loho}
    values["simulation"]["partition"]["hospitals"] = values["simulation"]["partition"]["hospitals"][
        :3
    ]
    return parse_study(values, origin="test")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("loho") / "run"
    study = small_study()
    prepare(study, run_dir)
    run = leave_one_out(study, run_dir, engine="inprocess", say=lambda line: None)
    return run, loho_metrics(run, run_dir, engine="inprocess", seconds=1.0), run_dir


def test_the_contract_of_the_json(found):
    _, metrics, _ = found
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert set(metrics["held_out"]) == {"university", "harbour", "lakeside"}
    figures = {
        *("auc", "accuracy", "brier", "log_loss", "calibration_slope", "calibration_intercept")
    }
    for shots in metrics["held_out"].values():
        assert set(shots) == {"0", "8"}
        assert set(shots["8"]) == set(ARMS)
        assert set(shots["0"]) == {"pooled", "fedavg", "reptile"}
        for arm, row in shots["8"].items():
            assert figures <= set(row)
            assert ("adapted" in row) == (arm in ("pooled", "fedavg", "reptile"))
    pooled = {"auc", "ci_low", "ci_high", "prediction_low", "prediction_high", "tau2"}
    assert pooled <= set(metrics["pooled"]["8"]["reptile"]["adapted"])
    assert set(metrics["mean"]["8"]) == set(ARMS)


def test_the_hospital_left_out_takes_no_part_in_training(found):
    """Fault it is for: the hospital that judges was among those that trained."""
    _, _, run_dir = found
    jobs = sorted(p.name for p in (run_dir / "sites").iterdir())
    assert len(jobs) == 6
    for job in jobs:
        name = job.split("-without-")[1].removesuffix("-seed-0")
        sites = {p.name for p in (run_dir / "sites" / job).iterdir()}
        assert name not in sites
        assert len(sites) == 2


def test_all_patients_of_the_hospital_left_out_judge_the_shared_model(found):
    run, metrics, _ = found
    for site in run.sites:
        assert site.shots[0]["reptile"][0].figures.patients == site.patients
        assert site.shots[8]["reptile"][0].figures.patients == site.patients - 8
        assert len(site.shots[8]["reptile"]) == 3
    rows = {row["name"]: row for row in metrics["centres"]}
    assert rows["university"]["patients"] == 215
    assert rows["university"]["outcomes"] == 77


def test_draws_part_patients_and_differ():
    """Each draw parts the patients; a patient of several records is never on both sides."""
    patient = torch.tensor([0, 0, 1, 2, 2, 3, 4, 5])
    part = Part(torch.arange(8.0)[:, None], torch.zeros(8, dtype=torch.int64), patient, 6)
    seen = set()
    for labelled, rest in _draws(part, 2, 20, seed=1):
        inside = {int(patient[int(v)]) for v in labelled.x[:, 0]}
        outside = {int(patient[int(v)]) for v in rest.x[:, 0]}
        assert len(inside) == 2
        assert not inside & outside
        assert inside | outside == set(range(6))
        seen.add(tuple(sorted(inside)))
    assert len(seen) > 5
    ((labelled, rest),) = _draws(part, 0, 20, seed=1)
    assert labelled is None
    assert rest is part


def test_intercept_recalibration_finds_a_known_shift_and_survives_one_class():
    """The true logit is the score's plus 1; with 4,000 patients the estimate is within 0.15 of it.

    Its standard error is 1/sqrt(sum p(1-p)) < 1/sqrt(4000 * 0.1) = 0.05: three of them.
    """
    rng = np.random.default_rng(0)
    z = rng.normal(size=4000)
    truth = torch.from_numpy((rng.uniform(size=4000) < 1 / (1 + np.exp(-z - 1))).astype(np.int64))
    p = 1 / (1 + np.exp(-z))
    part = Part(torch.zeros(4000, 1), truth, torch.arange(4000), 4000)
    scores = np.stack([1 - p, p], axis=1)
    assert abs(_intercept(scores, part) - 1.0) < 0.15
    one_class = Part(part.x, torch.ones_like(truth), part.patient, 4000)
    assert 0 < _intercept(scores, one_class) < 10


def test_the_remarks_say_what_the_figures_cannot(found):
    _, metrics, _ = found
    text = " ".join(metrics["remarks"])
    assert "3 hospitals barely identify" in text
    assert "Reptile and FedAvg are the same algorithm here" in text


def test_an_auc_with_one_outcome_is_not_defined(tmp_path):
    """Stated convention: null, neither 0 nor 1, and the remark names the hospital."""
    study = small_study(shots=[0])
    values = study.model_dump(mode="json")
    values["simulation"]["partition"]["hospitals"][2]["positives"] = 0
    study = parse_study(values, origin="test")
    prepare(study, tmp_path / "run")
    run = leave_one_out(study, tmp_path / "run", engine="inprocess", say=lambda line: None)
    metrics = loho_metrics(run, tmp_path / "run", engine="inprocess", seconds=1.0)
    assert metrics["held_out"]["lakeside"]["0"]["reptile"]["auc"] is None
    assert metrics["pooled"]["0"]["reptile"]["k"] == 2
    assert any("not defined" in r and "lakeside" in r for r in metrics["remarks"])


def test_the_command_prints_the_contract_and_resumes(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = ["sim", "loho", "--shots", "0,8", "--draws", "2", "--epsilon", "8", "--out", "r"]
    ended = run_command(monkeypatch, capsys, *options, "--json")
    assert ended.code == 0
    first = json.loads(ended.out)
    assert first["draws"] == 2
    assert first["shots"] == [0, 8]
    ended = run_command(monkeypatch, capsys, "sim", "loho", "--resume", "r", "--json")
    assert ended.code == 0
    again = json.loads(ended.out)
    assert again["held_out"] == first["held_out"]
    assert "Leave one hospital out" in (tmp_path / "r" / "report.html").read_text()
