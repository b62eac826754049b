"""A site's own report: collected from its ledger, its studies and its patients."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.desk.received import keep
from client.desk.site_report import site_values, write_report
from client.ledger import Key, Ledger
from client.site import load_site
from common.codec import encode
from common.cohort.read import read_cohort
from common.learners.adaptation import adapt_locally
from common.metrics import figures
from common.models import build, initial_params, load_params, params_of, predict
from common.plan import Plan
from common.privacy.accounting import epsilon
from tests.page_reader import Reader
from tests.small_world import hospital, roomy, small_plan

PLAN = small_plan()
OTHER = small_plan(name="other", privacy={"sigma": 6.0})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    hospital(folder, PLAN, OTHER, policy=roomy(PLAN, noise_seed=None, delta=1.0e-2))
    ledger = Ledger(folder / "ledger.sqlite", durable=False)
    yield ledger
    ledger.close()


def answer(ledger: Ledger, plan: Plan, phase: str, number: int) -> None:
    key = Key(plan.digest, "run-1", phase, number)
    price = plan.training_prices()[0] if phase == "train" else plan.evaluation_price()
    entry = ledger.reserve(key, delta=plan.delta, events=[price])
    ledger.commit(entry, key, b"")


def deliver(folder: Path, ledger: Ledger) -> None:
    payload = encode(params_of(build(PLAN.study)))
    keep(folder, ledger=ledger, digest=PLAN.digest, run="run-1", payload=payload, card="")


def test_a_new_site_has_a_report(folder: Path, ledger: Ledger) -> None:
    values = site_values(folder, ledger)
    assert values["spent"] == {"epsilon": 0.0, "delta": 0.0}
    assert (values["spending"], values["models"]) == ([], [])
    assert [row["study"] for row in values["studies"]] == sorted(["small", "other"], key={
        p.study.name: p.digest for p in (PLAN, OTHER)}.__getitem__)  # fmt: skip
    assert values["ledger"]["ok"]
    assert values["noise_seed"] is None


def test_spending_adds_up_over_studies_and_what_is_begun_is_held(
    folder: Path, ledger: Ledger
) -> None:
    answer(ledger, PLAN, "train", 1)
    answer(ledger, PLAN, "train", 2)
    answer(ledger, OTHER, "train", 1)
    values = site_values(folder, ledger)
    two = PLAN.epsilon_after(2)
    one = epsilon(OTHER.training_prices(), delta=OTHER.delta)
    assert values["spent"]["epsilon"] == pytest.approx(two + one)
    assert values["spent"]["delta"] == pytest.approx(PLAN.delta + OTHER.delta)
    assert values["held"]["epsilon"] == pytest.approx(PLAN.epsilon + OTHER.epsilon)
    drawn = [(row["study"], row["epsilon"]) for row in values["spending"]]
    assert drawn == [
        ("small", pytest.approx(PLAN.epsilon_after(1))),
        ("small", pytest.approx(two)),
        ("other", pytest.approx(one)),
    ]


def test_a_study_shows_its_rounds_and_its_refusals(folder: Path, ledger: Ledger) -> None:
    ledger.record("approval", {"digest": PLAN.digest})
    answer(ledger, PLAN, "train", 1)
    answer(ledger, PLAN, "evaluate", 3)
    key = Key(PLAN.digest, "run-1", "train", 2)
    ledger.reserve(key, delta=PLAN.delta, events=PLAN.training_prices())  # and no answer
    body = {"reason": "BUDGET", "phase": "train", "run": "run-1", "round": "3"}
    ledger.record("refusal", {**body, "digest": PLAN.digest})
    ledger.record("refusal", {**body, "digest": "nonsense", "reason": "UNKNOWN_STUDY"})
    rows = {row["study"] or row["title"]: row for row in site_values(folder, ledger)["studies"]}
    row = rows["small"]
    assert (row["runs"], row["answered"], row["planned"]) == (1, 1, 3)
    assert row["refusals"] == {"privacy budget would be exceeded": 1}
    assert datetime.fromisoformat(row["approved"])
    assert row["is_open"]
    assert rows["other"]["approved"] == ""
    assert rows["studies never approved here"]["refusals"] == {"study not approved here": 1}


def test_a_study_that_is_no_longer_approved_still_counts(folder: Path, ledger: Ledger) -> None:
    answer(ledger, PLAN, "train", 1)
    (folder / "approved" / f"{PLAN.digest}.toml").unlink()
    values = site_values(folder, ledger)
    row = next(row for row in values["studies"] if row["digest"] == PLAN.digest)
    assert (row["is_open"], row["study"], row["planned"]) == (False, "", 0)
    assert row["epsilon"] == pytest.approx(PLAN.epsilon_after(1))
    assert values["spending"][0]["study"] == f"study {PLAN.digest[:6]}"


def test_long_studies_are_drawn_with_few_points_and_their_end(
    folder: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.desk.site_report._POINTS", 3)
    with ledger.transaction():
        for number in range(1, 11):
            answer(ledger, PLAN, "train", number)
    drawn = site_values(folder, ledger)["spending"]
    assert len(drawn) <= 5
    whole = epsilon(PLAN.training_prices(rounds=10), delta=PLAN.delta)
    assert drawn[-1]["epsilon"] == pytest.approx(whole)


def test_models_are_judged_on_the_own_holdout(folder: Path, ledger: Ledger) -> None:
    deliver(folder, ledger)
    (row,) = site_values(folder, ledger)["models"]
    cohort = read_cohort(load_site(folder).source, PLAN.study.cohort)
    assert (row["train"], row["holdout"]) == (cohort.train.patients, cohort.holdout.patients)
    assert set(row["judged"]) == {"received", "adapted", "local"}
    part, model = cohort.holdout, build(PLAN.study)
    load_params(model, initial_params(PLAN.study, seed=0))  # logistic: zeros, as delivered
    exact = figures(predict(model, part.x).numpy(), part.y.numpy(), part.weights.numpy())
    assert row["judged"]["received"]["figures"] == exact.to_json()
    load_params(model, adapt_locally(model, params_of(model), cohort.train, PLAN.study.adaptation))
    fitted = figures(predict(model, part.x).numpy(), part.y.numpy(), part.weights.numpy())
    assert fitted.auc is not None
    assert fitted.auc > 0.8
    assert row["judged"]["adapted"]["figures"] == fitted.to_json()
    assert row["judged"]["local"]["figures"] == fitted.to_json()  # both begin at zeros


def test_one_models_trouble_is_not_the_reports(folder: Path, ledger: Ledger) -> None:
    deliver(folder, ledger)
    (folder / "patients.csv").write_text("patient,number,label\na,1,ill\n")
    (row,) = site_values(folder, ledger)["models"]
    assert row["judged"] == {}
    assert "has no column 'pressure'" in row["problem"]


def test_the_report_is_for_the_hospitals_own_user(folder: Path, ledger: Ledger) -> None:
    answer(ledger, PLAN, "train", 1)
    deliver(folder, ledger)
    values = site_values(folder, ledger, now=datetime(2026, 1, 2, tzinfo=UTC))
    before = os.umask(0)
    try:
        path = write_report(folder, values)
    finally:
        os.umask(before)
    assert path == folder / "report.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert not Reader(text).open
    assert "2026-01-02T00:00:00+00:00" in text


def test_seeded_noise_is_told(tmp_path: Path) -> None:
    hospital(tmp_path / "site", PLAN, policy=roomy(PLAN, noise_seed=7))
    ledger = Ledger(tmp_path / "site" / "ledger.sqlite", durable=False)
    assert site_values(tmp_path / "site", ledger)["noise_seed"] == 7
    ledger.close()


def test_a_ledger_that_is_behind_is_told(folder: Path, ledger: Ledger) -> None:
    ledger.check_seen(PLAN.digest, 2)
    found = site_values(folder, ledger)["ledger"]
    assert found["ok"]
    assert found["behind"]


def test_an_edited_ledger_is_told(folder: Path, ledger: Ledger) -> None:
    answer(ledger, PLAN, "train", 1)
    answer(ledger, PLAN, "train", 2)
    assert site_values(folder, ledger)["ledger"]["ok"]
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as database, database:
        database.execute("DROP TRIGGER entries_are_never_edited")
        database.execute("UPDATE entries SET at = '2020-01-01' WHERE seq = 2")
    found = site_values(folder, ledger)["ledger"]
    assert not found["ok"]
    assert found["what"]
