"""A hospital's own look at a study of survival: who is counted, what is predicted, how well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from client.desk.received import keep
from client.desk.site_report import site_values
from client.ledger import Ledger
from client.patients.checkup import check_up
from client.patients.predictor import Predictions, predict_cases
from client.site import load_site
from common.codec import encode
from common.cohort.read import read_cohort
from common.judging import outcomes
from common.models import build, params_of
from common.params import Params
from common.plan import Plan, compile_study
from common.report.site_page import site_html
from common.review import review
from common.study import parse_study
from tests.small_world import hospital
from tests.survival_world import csv_text, survival_study

PLAN = compile_study(parse_study(survival_study(), origin="a test"))
COX = compile_study(
    parse_study(survival_study(model={"likelihood": "cox"}, privacy=None), origin="a test")
)


def weights(plan: Plan) -> Params:
    """Return weights by which a higher pressure means an earlier death."""
    params = params_of(build(plan.study))
    params["body.1.weight"] = torch.tensor([[0.0, 2.0]])
    return params


def site_with(folder: Path, plan: Plan) -> Ledger:
    hospital(folder, plan, text=csv_text(), declared=60)
    (folder / "keys").mkdir()
    (folder / "keys" / "secret").write_bytes(b"s" * 32)
    ledger = Ledger(folder / "ledger.sqlite", durable=False)
    payload = encode(weights(plan))
    keep(folder, ledger=ledger, digest=plan.digest, run="run-1", payload=payload, card="")
    return ledger


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    ledger = site_with(folder, PLAN)
    yield ledger
    ledger.close()


def predicted(folder: Path, ledger: Ledger) -> Predictions:
    cases = folder.parent / "new.csv"
    cases.write_text("patient,number,pressure\nx1,0,140\nx2,0,180\n")
    return predict_cases(folder, ledger, cases)


def test_a_check_counts_who_is_censored_before_the_horizon(folder: Path, ledger: Ledger) -> None:
    found = check_up(load_site(folder), ledger, PLAN)
    label = PLAN.study.cohort.label
    cohort = read_cohort(load_site(folder).source, PLAN.study.cohort)
    for name, part in (("train", cohort.train), ("holdout", cohort.holdout)):
        y = outcomes(part, label)
        counts = {c: row["patients"] for c, row in found["parts"][name]["classes"].items()}
        assert counts == {
            "alive": int((y == 0).sum()),
            "dead": int((y == 1).sum()),
            "censored before the horizon": int((y == -1).sum()),
        }
        assert min(counts.values()) > 0
    assert found["problems"] == []


def test_a_prediction_is_the_risk_by_the_horizon(folder: Path, ledger: Ledger) -> None:
    found = predicted(folder, ledger)
    # Scores 0 and 2 * (180 - 140) / 80 = 1, intercepts 0, two intervals up to the horizon of 200.
    free = [0.5**2, (1 / (1 + np.e)) ** 2]
    risks = [row["probability dead"] for row in found.rows()]
    assert risks == pytest.approx([1 - value for value in free], abs=1e-6)
    assert "that of 'dead' by days = 200" in found.about[0]
    assert "concordance index" in found.about[1]
    assert "read no risk off it" in found.about[1]


def test_a_review_says_what_the_outcome_is_and_who_counts_nowhere() -> None:
    told = " ".join(review(PLAN).leaves)
    assert "the outcome being 'dead' by days = 200; patients censored before" in told


def test_the_sites_report_has_the_concordance_index(folder: Path, ledger: Ledger) -> None:
    values = site_values(folder, ledger)
    figures = values["models"][0]["judged"]["received"]["figures"]
    assert (figures["c_index"] or 0) > 0.5
    assert figures["calibration_slope"] is None
    assert "C-index" in site_html(values)


def test_predictions_of_cox_only_rank_and_say_so(folder: Path) -> None:
    ledger = site_with(folder, COX)
    found = predicted(folder, ledger)
    risks = [row["probability dead"] for row in found.rows()]
    assert risks[0] < risks[1]
    assert "are no probabilities" in found.about[0]
    ledger.close()
