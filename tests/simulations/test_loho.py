"""Leave one hospital out: who trains, who is drawn, and what is said."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from common.cohort.parts import Part
from common.embedded import find_study
from common.errors import StudyError
from common.report.loho_page import loho_html
from common.report.loho_tables import missing_tables
from common.schema import dump_toml
from common.study import load_study, parse_study
from simulations.display import print_leave_one_out
from simulations.loho import ALONE, _draws, _intercept, _judge, leave_one_out
from simulations.loho_results import _judged, _pooled_row, loho_metrics
from simulations.runner import prepare
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
        assert set(shots["8"]) == {*ALONE, "pooled", "reptile", "fedavg"}
        assert set(shots["0"]) == {"pooled", "fedavg", "reptile"}
        for arm, row in shots["8"].items():
            assert figures <= set(row)
            assert ("adapted" in row) == (arm in ("pooled", "fedavg", "reptile"))
    pooled = {"auc", "ci_low", "ci_high", "prediction_low", "prediction_high", "tau2"}
    assert pooled <= set(metrics["pooled"]["8"]["reptile"]["adapted"])
    assert set(metrics["mean"]["8"]) == {*ALONE, "pooled", "reptile", "fedavg"}


def test_the_readme_names_every_key(found):
    """Fault it is for: a contract of three keys, and a JSON of twelve more."""
    _, metrics, _ = found
    text = (Path(__file__).parents[2] / "README.md").read_text()
    one, row = metrics["held_out"]["harbour"]["8"]["reptile"], metrics["pooled"]["8"]["reptile"]
    keys = {*one, *one["net_benefit"][0], *row, *metrics["centres"][0], *metrics}
    untold = {key for key in keys if f"`{key}`" not in text}
    assert untold == {"schema", "description", "versions"}


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
    remarks = " ".join(metrics["remarks"])
    assert "The AUC is not defined at lakeside (one class)" in remarks
    assert "in some draws" not in remarks
    # Faults: three hospitals were said to be averaged, and to identify tau.
    assert "2 hospitals barely identify" in remarks
    console = Console(width=110, record=True, file=io.StringIO())
    print_leave_one_out(console, metrics)
    assert "mean over 3 hospitals (AUC: 2 hospitals); slope" in console.export_text()


def left_out(study, tmp_path):
    """Return what is said before the first training, and the error that it ends with."""
    prepare(study, tmp_path / "run")
    said = []
    with pytest.raises(StudyError) as caught:
        leave_one_out(study, tmp_path / "run", engine="inprocess", say=said.append)
    assert not (tmp_path / "run" / "sites").exists()
    return said, caught.value


def changed(study, table, **values):
    plain = study.model_dump(mode="json")
    plain[table] |= values
    return parse_study(plain, origin="test")


def test_one_hospital_is_not_enough(tmp_path):
    said, error = left_out(changed(small_study(), "cohort", min_declared=150), tmp_path)
    assert "has 1 hospital large enough" in error.message
    assert len(said) == 2
    assert "harbour took no part: declared 120 is below the minimum of 150" in said


def test_a_quorum_counts_those_who_are_left(tmp_path):
    _, error = left_out(changed(small_study(), "rounds", quorum=3), tmp_path)
    assert "leaving one out lowers the count to 2" in error.message
    assert "2 at most" in error.remedy


def test_more_labelled_patients_than_anybody_has_are_refused(tmp_path):
    """Faults: an empty table for 5,000, and figures of the one patient left for all but one."""
    _, error = left_out(small_study(shots=[0, 5000]), tmp_path)
    assert "--shots (simulation.loho.shots) has 5000" in error.message
    assert "no hospital has more than 215 patients" in error.message


def test_an_auc_of_one_positive_does_not_take_over():
    """Fault it is for: a perfect order of forty patients, one of them ill, [0.9988, 0.9992]."""

    def scored(positives, negatives, right):
        """Scores of a binary model: the last `right` positives above all, the others below."""
        labels = torch.tensor([0] * negatives + [1] * positives)
        score = np.linspace(0.1, 0.6, negatives + positives)
        score[negatives : negatives + positives - right] = 0.05
        rest = Part(torch.zeros(len(labels), 1), labels, torch.arange(len(labels)), len(labels))
        return _judge(np.stack([1 - score, score], axis=1), rest)

    few, others = scored(1, 39, 1), [scored(30, 60, n) for n in (24, 25, 26)]
    row = _judged([few])
    assert row["auc"] == row["auc_high"] == 1.0
    assert row["auc_low"] == pytest.approx(0.12, abs=0.01)
    pooled = _pooled_row([judged.auc for judged in (few, *others)])
    assert pooled["tau2"] < 0.1
    assert pooled["auc"] == pytest.approx(25 / 30, abs=0.02)


def test_missing_values_are_counted_before_incomplete_records_are_left_out(tmp_path):
    """Fault it is for: 80 of the 49 records that stayed, 163%."""
    for name in "ab":
        rows = [f"{i},{'?' if i % 2 else i % 10},{i % 10},{'yn'[i % 3 == 0]}" for i in range(160)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,x,z,label", *rows]) + "\n")
    values = small_study(shots=[0]).model_dump(mode="json")
    values["cohort"] |= {
        "patient": "id",
        "complete_cases": True,
        "label": {"column": "label", "classes": ["n", "y"]},
        "features": [{"name": n, "range": [0, 10]} for n in "xz"],
    }
    values["rounds"]["quorum"] = 1
    simulation = {k: v for k, v in values["simulation"].items() if k != "partition"}
    sites = {n: {"path": str(tmp_path / f"{n}.csv"), "declared": 150} for n in "ab"}
    values["simulation"] = simulation | {"sites": sites}
    study = parse_study(values, origin="test")
    prepare(study, tmp_path / "run")
    run = leave_one_out(study, tmp_path / "run", engine="inprocess", say=lambda line: None)
    metrics = loho_metrics(run, tmp_path / "run", engine="inprocess", seconds=1.0)
    for centre in metrics["centres"]:
        assert (centre["eligible"], centre["records"], centre["missing"]) == (160, 80, {"x": 80})
    assert missing_tables(metrics)[0]["rows"] == [("x", ["80 (50%)", "80 (50%)"])]
    assert "all records read, before incomplete records are left out" in loho_html(metrics)


def test_the_command_prints_the_contract_and_resumes(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(dump_toml(small_study().model_dump(mode="json")))
    options = ["sim", "loho", "study.toml", "--shots", "0,8", "--draws", "2", "--out", "r"]
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
