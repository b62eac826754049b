"""Withdrawal: out of every later round, told which runs came before, and no id in the ledger."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.ledger import Charge, Key, Ledger
from client.patients.uses import LOST
from client.patients.withdrawal import mark_of, read_secret, withdraw, withdrawn_at
from client.site import load_site
from common.cohort.read import read_cohort
from common.cohort.split import keyed_split
from common.errors import SiteError
from common.plan import Plan, write_plan
from tests.small_world import PATIENTS, csv_text, hospital, small_plan

SECRET = b"s" * 32
PLAN = small_plan()
NO_IDS = small_plan(name="no-ids", cohort={"patient": None})
IDS = [f"p{n}" for n in range(PATIENTS)]
TRAINS = keyed_split(IDS, key=bytes.fromhex("07" * 16), train_fraction=0.6)
TRAINING = IDS[int(TRAINS.argmax())]
HOLDOUT = IDS[int(TRAINS.argmin())]


def site_with(folder: Path, *plans: Plan) -> Ledger:
    hospital(folder, *plans)
    (folder / "keys").mkdir(mode=0o700)
    (folder / "keys" / "secret").write_bytes(SECRET)
    return Ledger(folder / "ledger.sqlite", durable=False)


def reserve(ledger: Ledger, plan: Plan, run: str, phase: str, *rounds: int) -> None:
    event = plan.training_prices()[0] if phase == "train" else plan.evaluation_price()
    events = [event] if phase in ("train", "evaluate") else []
    for number in rounds:
        key = Key(plan.digest, run, phase, number)
        ledger.reserve(key, delta=plan.delta, events=events)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    ledger = site_with(folder, PLAN)
    yield ledger
    ledger.close()


def test_the_mark_is_an_hmac_of_the_id() -> None:
    assert mark_of(SECRET, "p7") == hmac.new(SECRET, b"p7", hashlib.sha256).hexdigest()


def test_a_training_patient_may_have_been_used_in_training_alone(folder: Path, ledger: Ledger):
    reserve(ledger, PLAN, "run-1", "join", 0)
    reserve(ledger, PLAN, "run-1", "train", 1, 2)
    reserve(ledger, PLAN, "run-1", "evaluate", 3)
    (use,) = withdraw(folder, ledger, patient=TRAINING)["runs"]
    assert (use["study"], use["run"], use["part"], use["rounds"]) == (
        "small",
        "run-1",
        "train",
        [1, 2],
    )
    assert use["digest"] == PLAN.digest
    assert use["first"] <= use["last"]


def test_a_holdout_patient_may_have_been_used_in_evaluation_alone(folder: Path, ledger: Ledger):
    reserve(ledger, PLAN, "run-1", "train", 1)
    reserve(ledger, PLAN, "run-1", "evaluate", 3)
    (use,) = withdraw(folder, ledger, patient=HOLDOUT)["runs"]
    assert (use["part"], use["rounds"]) == ("holdout", [3])


def test_the_withdrawn_are_in_no_part_from_then_on_and_nobody_else_moves(
    folder: Path, ledger: Ledger
) -> None:
    site, schema = load_site(folder), PLAN.study.cohort
    before = read_cohort(site.source, schema)
    assert withdrawn_at(folder, ledger) is None
    withdraw(folder, ledger, patient=TRAINING)
    after = read_cohort(site.source, schema, without=withdrawn_at(folder, ledger))
    assert after.train.patients == before.train.patients - 1
    assert after.holdout.x.tolist() == before.holdout.x.tolist()
    number = float(TRAINING.removeprefix("p")) / 1000  # the column `number`, which tells a patient
    assert number in [round(x, 4) for x in before.train.x[:, 0].tolist()]
    assert number not in [round(x, 4) for x in after.train.x[:, 0].tolist()]


def test_the_id_is_nowhere_in_the_sites_folder_but_in_its_own_table(
    folder: Path, ledger: Ledger
) -> None:
    text = csv_text().replace(f"{TRAINING},", "patient-8841,")
    (folder / "patients.csv").write_text(text)
    found = withdraw(folder, ledger, patient="patient-8841")
    assert "8841" not in str(found)
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "patients.csv":
            assert b"8841" not in path.read_bytes(), path
    assert ledger.withdrawn() == {mark_of(SECRET, "patient-8841")}


def test_withdrawing_twice_is_entered_once_and_lists_what_came_before(
    folder: Path, ledger: Ledger
) -> None:
    reserve(ledger, PLAN, "run-1", "train", 1)
    first = withdraw(folder, ledger, patient=TRAINING)
    reserve(ledger, PLAN, "run-1", "train", 2)
    second = withdraw(folder, ledger, patient=TRAINING)
    assert (first["already"], second["already"]) == (False, True)
    assert second["runs"] == first["runs"]
    assert second["at"] == first["at"]
    assert len(ledger.entries("withdrawal")) == 1


def test_an_unknown_id_is_refused_and_nothing_is_entered(folder: Path, ledger: Ledger) -> None:
    with pytest.raises(SiteError, match="PATIENT_ID is 'p99', which no patient has") as error:
        withdraw(folder, ledger, patient="p99")
    assert "--anyway" in error.value.remedy
    assert not ledger.entries("withdrawal")


def test_a_patient_whose_record_is_gone_is_withdrawn_anyway(folder: Path, ledger: Ledger) -> None:
    reserve(ledger, PLAN, "run-1", "train", 1)
    reserve(ledger, PLAN, "run-1", "evaluate", 3)
    lines = csv_text().splitlines()
    kept = [line for line in lines if not line.startswith(f"{TRAINING},")]
    (folder / "patients.csv").write_text("\n".join(kept) + "\n")
    found = withdraw(folder, ledger, patient=TRAINING, anyway=True)
    assert [use["part"] for use in found["runs"]] == ["train"]
    assert any("does not hold this id now" in note for note in found["notes"])
    assert withdraw(folder, ledger, patient=TRAINING)["already"]


def test_a_study_without_ids_explains_how_to_name_a_record(tmp_path: Path) -> None:
    ledger = site_with(tmp_path / "site", NO_IDS)
    reserve(ledger, NO_IDS, "run-1", "train", 1)
    reserve(ledger, NO_IDS, "run-1", "evaluate", 3)
    with pytest.raises(SiteError, match=r"names no patient's column.*hash") as error:
        withdraw(tmp_path / "site", ledger, patient="17")
    assert "record:17" in error.value.remedy
    for wrong in ("record:0", "record:4000"):
        with pytest.raises(SiteError, match=f"'{wrong}', .* has a record of that number") as error:
            withdraw(tmp_path / "site", ledger, patient=wrong, anyway=True)
        assert "from 1" in error.value.remedy
    site = load_site(tmp_path / "site")
    before = read_cohort(site.source, NO_IDS.study.cohort)
    (use,) = withdraw(tmp_path / "site", ledger, patient="record:2")["runs"]
    test = withdrawn_at(tmp_path / "site", ledger)
    after = read_cohort(site.source, NO_IDS.study.cohort, without=test)
    lost = {p: getattr(before, p).patients - getattr(after, p).patients for p in PARTS}
    assert lost == {part: int(part == use["part"]) for part in PARTS}
    ledger.close()


PARTS = ("train", "holdout")


def test_a_revoked_study_is_read_by_the_plan_beside_its_record(
    folder: Path, ledger: Ledger
) -> None:
    other = small_plan(name="revoked")
    (folder / "approvals").mkdir()
    write_plan(other, folder / "approvals")
    reserve(ledger, other, "run-9", "train", 1)
    reserve(ledger, other, "run-9", "evaluate", 3)
    (use,) = withdraw(folder, ledger, patient=TRAINING)["runs"]
    assert (use["study"], use["part"]) == ("revoked", "train")


def test_runs_of_a_study_whose_plan_is_gone_are_listed_in_both_parts(
    folder: Path, ledger: Ledger
) -> None:
    other = small_plan(name="revoked")
    reserve(ledger, other, "run-9", "train", 1)
    reserve(ledger, other, "run-9", "evaluate", 3)
    found = withdraw(folder, ledger, patient=TRAINING)["runs"]
    assert [(use["study"], use["run"], use["part"]) for use in found] == [
        ("", "run-9", "train"),
        ("", "run-9", "holdout"),
    ]


def test_runs_of_a_study_whose_data_cannot_be_read_are_listed(tmp_path: Path) -> None:
    broken = small_plan(name="broken", cohort={"patient": "mrn"})
    ledger = site_with(tmp_path / "site", PLAN, broken)
    reserve(ledger, broken, "run-1", "evaluate", 3)
    found = withdraw(tmp_path / "site", ledger, patient=TRAINING)
    assert [use["study"] for use in found["runs"]] == ["broken"]
    assert "has no column 'mrn'" in found["notes"][0]
    ledger.close()


@pytest.mark.parametrize("text", [None, "epsilon = "])
def test_a_patient_may_withdraw_whatever_became_of_the_policy(
    folder: Path, ledger: Ledger, text: str | None
) -> None:
    (folder / "policy.toml").unlink()
    if text is not None:
        (folder / "policy.toml").write_text(text)
    assert withdraw(folder, ledger, patient=TRAINING)["already"] is False
    assert len(ledger.withdrawn()) == 1


def test_a_site_without_its_secret_withdraws_nobody(folder: Path, ledger: Ledger) -> None:
    (folder / "keys" / "secret").write_bytes(b"short")
    with pytest.raises(SiteError, match="has 5 bytes instead of 32"):
        withdraw(folder, ledger, patient=TRAINING)
    (folder / "keys" / "secret").unlink()
    with pytest.raises(SiteError, match="does not exist"):
        read_secret(folder)


def test_what_was_charged_by_a_reconciliation_is_listed(folder: Path, ledger: Ledger) -> None:
    ledger.check_seen(PLAN.digest, 2)
    price = (*PLAN.training_prices(rounds=3), PLAN.evaluation_price())
    ledger.reconcile([Charge(PLAN.digest, PLAN.delta, price)], "restored")
    (use,) = withdraw(folder, ledger, patient=TRAINING)["runs"]
    assert (use["run"], use["part"], use["rounds"]) == (LOST, "train", [])
