"""Predictions on new cases: the right model, marked, with what is missing counted."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from client.desk.received import keep
from client.ledger import Ledger
from client.patients.judging import judged
from client.patients.predictor import predict_cases
from client.patients.withdrawal import withdraw
from client.site import load_site
from common.codec import encode
from common.cohort.inputs import read_inputs
from common.cohort.parts import Part
from common.cohort.read import read_cohort
from common.cohort.schema import Label
from common.errors import DataError, SiteError
from common.learners.adaptation import adapt_locally
from common.metrics import figures
from common.models import build, load_params, params_of, predict
from common.params import Params
from common.plan import Plan
from tests.small_world import hospital, small_plan

PLAN = small_plan()
NEW = "patient,number,pressure\nx1,5,150\nx2,6,110\nx3,,500\n"
RUN = "run-1"


def weights() -> Params:
    """Return weights by which a higher pressure means a higher risk."""
    params = params_of(build(PLAN.study))
    params["body.1.weight"] = torch.tensor([[0.0, -1.0], [0.0, 1.0]])
    return params


def site_with(folder: Path, plan: Plan = PLAN) -> Ledger:
    hospital(folder, plan)
    (folder / "keys").mkdir()
    (folder / "keys" / "secret").write_bytes(b"s" * 32)
    ledger = Ledger(folder / "ledger.sqlite", durable=False)
    keep(folder, ledger=ledger, digest=plan.digest, run=RUN, payload=encode(weights()), card="")
    return ledger


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    ledger = site_with(folder)
    yield ledger
    ledger.close()


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    (tmp_path / "new.csv").write_text(NEW)
    return tmp_path / "new.csv"


def scored(params: Params, cases: Path) -> np.ndarray:
    model = build(PLAN.study)
    load_params(model, params)
    return predict(model, torch.from_numpy(read_inputs(cases, PLAN.study.cohort).x)).numpy()


def test_the_model_as_received_gives_its_own_probabilities(
    folder: Path, ledger: Ledger, cases: Path
) -> None:
    found = predict_cases(folder, ledger, cases)
    np.testing.assert_array_equal(found.probabilities, scored(weights(), cases))
    # Pressure 150 is (150 - 140) / 80 = 1/8 of the way, so logits are -1/8 and 1/8.
    assert found.rows()[0]["probability ill"] == pytest.approx(1 / (1 + np.exp(-0.25)), abs=1e-6)
    assert [row["patient"] for row in found.rows()] == ["x1", "x2", "x3"]
    assert found.classes == ("well", "ill")


def test_what_is_missing_or_out_of_range_is_counted(
    folder: Path, ledger: Ledger, cases: Path
) -> None:
    assert predict_cases(folder, ledger, cases).notes == (
        "number: 1 missing",
        "pressure: 1 out of [60, 220], clamped",
    )


def test_the_adapted_model_is_fitted_to_the_own_training_patients(
    folder: Path, ledger: Ledger, cases: Path
) -> None:
    train = read_cohort(load_site(folder).source, PLAN.study.cohort).train
    fitted = adapt_locally(build(PLAN.study), weights(), train, PLAN.study.adaptation)
    found = predict_cases(folder, ledger, cases, form="adapted")
    np.testing.assert_array_equal(found.probabilities, scored(fitted, cases))
    assert not np.array_equal(found.probabilities, scored(weights(), cases))
    assert f"own {train.patients} training patients" in found.about[0]


def test_nothing_is_adapted_to_a_patient_who_has_withdrawn(
    folder: Path, ledger: Ledger, cases: Path
) -> None:
    before = predict_cases(folder, ledger, cases, form="adapted")
    for number in range(6):
        withdraw(folder, ledger, patient=f"p{number}")
    after = predict_cases(folder, ledger, cases, form="adapted")
    assert not np.array_equal(before.probabilities, after.probabilities)


def test_every_row_is_marked(folder: Path, ledger: Ledger, cases: Path) -> None:
    for form, marked in (
        ("received", "for research; not for clinical use"),
        ("adapted", "for research; not for clinical use; does not leave the hospital"),
    ):
        found = predict_cases(folder, ledger, cases, form=form)
        rows = list(csv.DictReader(io.StringIO(found.to_csv())))
        assert [row["use"] for row in rows] == [marked] * 3
        assert [row["model"] for row in rows] == [f"{RUN}, {form}"] * 3
        assert marked in found.about[0]
        assert found.to_json()["use"] == marked


def test_how_far_to_trust_it_is_measured_on_the_own_holdout(
    folder: Path, ledger: Ledger, cases: Path
) -> None:
    holdout = read_cohort(load_site(folder).source, PLAN.study.cohort).holdout
    model = build(PLAN.study)
    load_params(model, weights())
    exact = figures(predict(model, holdout.x).numpy(), holdout.y.numpy(), holdout.weights.numpy())
    said = predict_cases(folder, ledger, cases).about[1]
    assert f"own {holdout.patients} holdout patients" in said
    assert f"AUC is {exact.auc:.2f}" in said


def test_an_incomplete_case_has_no_probability_where_the_study_takes_complete_ones(
    tmp_path: Path, cases: Path
) -> None:
    ledger = site_with(tmp_path / "site", small_plan(cohort={"complete_cases": True}))
    found = predict_cases(tmp_path / "site", ledger, cases)
    assert [row["probability ill"] is None for row in found.rows()] == [False, False, True]
    assert found.notes[-1].startswith("1 of 3 records miss a feature and have no probability")
    ledger.close()


def test_a_study_without_ids_numbers_its_records(tmp_path: Path, cases: Path) -> None:
    ledger = site_with(tmp_path / "site", small_plan(cohort={"patient": None}))
    rows = predict_cases(tmp_path / "site", ledger, cases).rows()
    assert "patient" not in rows[0]
    assert [row["record"] for row in rows] == [1, 2, 3]
    ledger.close()


def test_without_its_own_data_a_site_predicts_as_received_alone(
    folder: Path, ledger: Ledger, cases: Path
) -> None:
    (folder / "patients.csv").unlink()
    found = predict_cases(folder, ledger, cases)
    np.testing.assert_array_equal(found.probabilities, scored(weights(), cases))
    assert "is not known" in found.about[1]
    with pytest.raises(DataError, match="does not exist"):
        predict_cases(folder, ledger, cases, form="adapted")


def test_a_wrong_run_and_a_wrong_input_are_told(
    folder: Path, ledger: Ledger, cases: Path, tmp_path: Path
) -> None:
    with pytest.raises(SiteError, match="--run is 'run-2'"):
        predict_cases(folder, ledger, cases, run="run-2")
    cases.write_text("patient,number\nx1,5\n")
    with pytest.raises(DataError, match="has no column 'pressure'"):
        predict_cases(folder, ledger, cases)
    hospital(tmp_path / "new", PLAN)
    with pytest.raises(SiteError, match="no model has been delivered"):
        predict_cases(tmp_path / "new", ledger, cases)


def test_figures_of_the_holdout_have_an_interval_and_tenths() -> None:
    risk = np.array([0.05, 0.15, 0.35, 0.45, 0.85, 0.85])
    part = Part(torch.zeros(6, 1), torch.tensor([0, 0, 1, 0, 1, 1]), torch.arange(6), 6)
    found = judged(np.stack([1 - risk, risk], axis=1), part, Label(classes=("well", "ill")))
    # Of nine pairs the ill one at .35 loses to the well one at .45 alone.
    assert found["figures"]["auc"] == pytest.approx(8 / 9)
    low, high = found["auc_low"], found["auc_high"]
    assert low is not None
    assert high is not None
    assert 0 < low < 8 / 9 < high < 1
    assert found["tenths"][-1] == pytest.approx((0.85, 1.0, 2.0))


def test_three_classes_have_no_tenths_and_no_interval() -> None:
    part = Part(torch.zeros(3, 1), torch.tensor([0, 1, 2]), torch.arange(3), 3)
    found = judged(np.eye(3), part, Label(classes=("a", "b", "c")))
    assert (found["tenths"], found["auc_low"]) == ([], None)
    assert found["figures"]["accuracy"] == 1.0


def test_a_model_of_grades_is_judged_by_its_kappa_too(tmp_path: Path, cases: Path) -> None:
    plan = small_plan(cohort={"label": {"classes": ["well", "ill"], "ordinal": True}})
    ledger = site_with(tmp_path / "site", plan)
    said = predict_cases(tmp_path / "site", ledger, cases).about[1]
    ledger.close()
    holdout = read_cohort(load_site(tmp_path / "site").source, plan.study.cohort).holdout
    model = build(plan.study)
    load_params(model, weights())
    scores = predict(model, holdout.x).numpy()
    exact = figures(scores, holdout.y.numpy(), holdout.weights.numpy(), ordinal=True).kappa
    assert f"quadratic weighted kappa of the grade is {exact:.2f}" in said
