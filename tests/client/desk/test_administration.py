"""What an administrator may ask, with an agent or without one."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.desk import administration
from client.desk.administration import COMMANDS, OwnDesk, opened, perform, perform_locally
from client.desk.approval import runs_approved
from client.desk.backup import back_up
from client.ledger import Key, Ledger
from client.patients.checkup import check_up
from client.policy.spending import held
from client.site import load_site
from common.errors import DataError, SiteError
from common.plan import Plan
from tests.small_world import csv_text, made_site, small_plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan()


@pytest.fixture
def folder(tmp_path: Path, plan: Plan) -> Path:
    """Return a site that has approved the small study."""
    folder = made_site(tmp_path / "alpha")
    perform(folder, "approve", study=plan.study.rules(), by="a test")
    return folder


@pytest.fixture
def desk(folder: Path) -> Iterator[OwnDesk]:
    with opened(folder) as desk:
        yield desk


def spend(desk: OwnDesk, plan: Plan, *, rounds: int) -> None:
    key = Key(plan.digest, "main", "train", rounds)
    desk.ledger.reserve(key, delta=plan.delta, events=plan.training_prices(rounds=rounds))


def test_every_command_that_the_agent_is_asked_for_is_there() -> None:
    assert COMMANDS.keys() == {
        *("approve", "revoke", "pause", "resume", "status"),
        *("budget", "withdraw", "confirm", "reconcile"),
    }


def test_a_command_that_is_none_is_refused(desk: OwnDesk) -> None:
    with pytest.raises(SiteError, match="'shutdown'") as caught:
        perform_locally(desk, "shutdown", {})
    assert "pause" in caught.value.remedy


def test_a_running_agent_is_asked_and_its_ledger_is_not_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def call(folder: Path, name: str, **values: Any) -> dict[str, Any]:
        calls.append((name, values))
        return {"paused": True}

    monkeypatch.setattr(administration.admin, "is_running", lambda folder: True)
    monkeypatch.setattr(administration.admin, "call", call)
    monkeypatch.setattr(administration, "Ledger", None)
    assert perform(folder, "pause", by="x") == {"paused": True}
    assert calls == [("pause", {"by": "x"})]


def test_a_folder_that_is_no_site_is_told_before_an_agent_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="absent"):
        perform(tmp_path / "absent", "status")


def test_pausing_twice_is_one_entry(desk: OwnDesk) -> None:
    done = [perform_locally(desk, name, {"by": "x"})["changed"] for name in ("pause",) * 2]
    assert done == [True, False]
    assert perform_locally(desk, "status", {})["paused"]
    done = [perform_locally(desk, name, {"by": "x"})["changed"] for name in ("resume",) * 2]
    assert done == [True, False]
    assert [e.kind for e in desk.ledger.entries()][2:] == ["pause", "resume"]


def test_the_status_tells_what_is_spent_and_held(desk: OwnDesk, plan: Plan) -> None:
    spend(desk, plan, rounds=1)
    found = perform_locally(desk, "status", {})
    [study] = found["studies"]
    assert (study["spent"], study["held"]) == (plan.epsilon_after(1), plan.epsilon)
    assert (study["runs_begun"], study["runs_approved"]) == (1, 1)
    assert found["epsilon"] == {"allowed": 5.0, "held": plan.epsilon}
    assert (found["seeded_noise"], found["behind"], study["cohort_changed"]) == (None, None, False)
    json.dumps(found, allow_nan=False)


def test_an_infinite_price_is_no_number_in_the_status(tmp_path: Path) -> None:
    folder = made_site(tmp_path / "alpha")
    policy = folder / "policy.toml"
    text = policy.read_text().replace("allow_unprotected = false", "allow_unprotected = true")
    policy.write_text(text)
    public = small_plan(privacy=None)
    with opened(folder) as desk:
        perform_locally(desk, "approve", {"study": public.study.rules()})
        spend(desk, public, rounds=1)
        found = perform_locally(desk, "status", {})
    assert found["studies"][0]["spent"] is None
    json.dumps(found, allow_nan=False)


def test_seeded_noise_is_shouted_about(desk: OwnDesk) -> None:
    policy = desk.folder / "policy.toml"
    policy.write_text(policy.read_text() + "noise_seed = 1\n")
    assert "SEEDED NOISE" in perform_locally(desk, "status", {})["seeded_noise"]


def test_a_budget_is_plain_values(desk: OwnDesk, plan: Plan) -> None:
    spend(desk, plan, rounds=1)
    found = perform_locally(desk, "budget", {})
    assert found["epsilon"]["left"] == pytest.approx(5.0 - plan.epsilon)
    json.dumps(found, allow_nan=False)


# The patients' files


def test_a_check_tells_what_is_there_and_changes_nothing(desk: OwnDesk, plan: Plan) -> None:
    before = {p: p.read_bytes() for p in desk.folder.parent.rglob("*") if p.is_file()}
    found = check_up(load_site(desk.folder), desk.ledger, plan)
    assert (found["patients"], found["declared"], found["problems"]) == (40, 40, [])
    assert found["confirmed"]
    assert not found["changed"]
    parts = found["parts"]
    assert sum(parts[p]["patients"] for p in parts) == 40
    assert sum(parts[p]["records"] for p in parts) == 54  # every third of 40 has two: 40 + 14
    number = found["ranges"][0]
    assert (number["name"], number["found"]) == ("number", [0.0, 19.5, 39.0])  # (780 + 273) / 54
    assert before == {p: p.read_bytes() for p in desk.folder.parent.rglob("*") if p.is_file()}
    json.dumps(found, allow_nan=False)


def test_a_check_names_what_does_not_fit(tmp_path: Path, plan: Plan) -> None:
    text = csv_text(patients=10).replace("ill", "well") + "p98,98,999,well\np99,99,,well\n"
    folder = made_site(tmp_path / "alpha", text=text)
    with opened(folder) as desk:
        found = check_up(load_site(folder), desk.ledger, plan)
    problems = "; ".join(found["problems"])
    for part in ("fewer than the least of 20", "40 are declared", "no train patient", "'ill'"):
        assert part in problems
    assert "pressure: 1 missing" in found["notes"]
    assert any("out of [60, 220]" in note for note in found["notes"])


def test_a_changed_cohort_is_shown_until_it_is_confirmed(desk: OwnDesk, plan: Plan) -> None:
    patients = load_site(desk.folder).source.path
    patients.write_text(patients.read_text() + "p99,99,120.0,ill\n")
    found = check_up(load_site(desk.folder), desk.ledger, plan)
    assert found["changed"]
    assert any("--confirm" in problem for problem in found["problems"])
    assert perform_locally(desk, "status", {})["studies"][0]["cohort_changed"] is True
    assert perform_locally(desk, "confirm", {})["changed"] is True
    assert perform_locally(desk, "confirm", {})["changed"] is False
    assert check_up(load_site(desk.folder), desk.ledger, plan)["problems"] == []
    digests = [e.body["digest"] for e in desk.ledger.entries("cohort")]
    assert len(set(digests)) == 2


def test_the_digest_of_a_cohort_is_keyed(tmp_path: Path, plan: Plan) -> None:
    # The same patients at two sites: who reads both ledgers must not see that.
    digests = set()
    for name in ("alpha", "beta"):
        with opened(made_site(tmp_path / name)) as desk:
            perform_locally(desk, "approve", {"study": plan.study.rules()})
            digests.add(desk.ledger.cohort_digest())
    assert len(digests) == 2


def test_patients_that_are_gone_are_told_in_the_status(desk: OwnDesk) -> None:
    load_site(desk.folder).source.path.unlink()
    [study] = perform_locally(desk, "status", {})["studies"]
    assert "cannot be read" in study["cohort_changed"]
    with pytest.raises(DataError):
        perform_locally(desk, "confirm", {})


def test_confirming_where_nothing_is_approved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="no study is approved"):
        perform(made_site(tmp_path / "alpha"), "confirm")


# Backup and reconciliation


def restored(folder: Path, archive: Path, target: Path) -> Path:
    with zipfile.ZipFile(archive) as kept:
        kept.extractall(target)
    assert load_site(target).cohort == load_site(folder).cohort
    return target


def test_a_restored_backup_is_behind_until_its_studies_are_charged_whole(
    desk: OwnDesk, plan: Plan, tmp_path: Path
) -> None:
    spend(desk, plan, rounds=1)
    names = back_up(desk.folder, desk.ledger, tmp_path / "kept.zip")
    assert {"ledger.sqlite", "policy.toml", "cohort.toml", "keys/secret"} <= set(names)
    assert (tmp_path / "kept.zip").stat().st_mode & 0o077 == 0
    assert desk.ledger.behind is None
    with opened(restored(desk.folder, tmp_path / "kept.zip", tmp_path / "copy")) as copy:
        assert copy.ledger.behind is not None
        assert perform_locally(copy, "status", {})["behind"] == copy.ledger.behind
        found = perform_locally(copy, "reconcile", {"by": "a test"})
        assert found["charged"] == [{"study": "small", "digest": plan.digest, "runs": 1}]
        assert copy.ledger.behind is None
        # One round that the backup knows, and the whole plan on top: 2 + 6 steps.
        [account] = copy.ledger.accounts()
        assert {e.part: e.count for e in account.events} == {"train": 8, "holdout": 1}
        assert {e.part: e.count for e in held(account, plan)} == {"train": 8, "holdout": 1}


def test_a_study_revoked_after_the_backup_is_charged_too(
    desk: OwnDesk, plan: Plan, tmp_path: Path
) -> None:
    back_up(desk.folder, desk.ledger, tmp_path / "kept.zip")
    copy = restored(desk.folder, tmp_path / "kept.zip", tmp_path / "copy")
    (copy / "approved" / f"{plan.digest}.toml").unlink()
    found = perform(copy, "reconcile")
    assert [c["digest"] for c in found["charged"]] == [plan.digest]


def test_a_study_that_the_ledger_knows_to_be_revoked_is_not_charged(
    desk: OwnDesk, plan: Plan, tmp_path: Path
) -> None:
    perform_locally(desk, "revoke", {"study": "small"})
    back_up(desk.folder, desk.ledger, tmp_path / "kept.zip")
    found = perform(restored(desk.folder, tmp_path / "kept.zip", tmp_path / "copy"), "reconcile")
    assert found["charged"] == []


def test_a_ledger_that_is_not_behind_is_not_reconciled(desk: OwnDesk) -> None:
    with pytest.raises(SiteError, match="not behind"):
        perform_locally(desk, "reconcile", {})
    assert [e.kind for e in desk.ledger.entries()] == ["cohort", "approval"]


def test_an_older_backup_is_not_overwritten(desk: OwnDesk, tmp_path: Path) -> None:
    (tmp_path / "kept.zip").write_bytes(b"older")
    with pytest.raises(SiteError, match=r"kept\.zip"):
        back_up(desk.folder, desk.ledger, tmp_path / "kept.zip")
    assert (tmp_path / "kept.zip").read_bytes() == b"older"
    with pytest.raises(SiteError, match="absent' is no folder"):
        back_up(desk.folder, desk.ledger, tmp_path / "absent" / "kept.zip")
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_a_backup_holds_no_patient(desk: OwnDesk, tmp_path: Path) -> None:
    back_up(desk.folder, desk.ledger, tmp_path / "kept.zip")
    with zipfile.ZipFile(tmp_path / "kept.zip") as kept:
        for name in kept.namelist():
            assert b"p7,7," not in kept.read(name)


def test_a_ledger_that_the_coordinator_knows_more_of_is_reconciled_by_its_study(
    desk: OwnDesk, plan: Plan
) -> None:
    desk.ledger.check_seen(plan.digest, 5)
    assert "has seen 5" in (desk.ledger.behind or "")
    perform_locally(desk, "revoke", {"study": "small"})  # its plan is still beside the record
    assert perform_locally(desk, "reconcile", {})["charged"][0]["digest"] == plan.digest


def test_a_reconciliation_stands_for_every_release_that_it_charges(
    desk: OwnDesk, plan: Plan, tmp_path: Path
) -> None:
    """Fault it is for: receipts of lost releases, true as they are, block the site once more."""
    back_up(desk.folder, desk.ledger, tmp_path / "kept.zip")
    copy = restored(desk.folder, tmp_path / "kept.zip", tmp_path / "copy")
    perform(copy, "reconcile")
    ledger = Ledger(copy / "ledger.sqlite")
    runs = runs_approved(ledger, plan.digest) or 1
    ledger.check_seen(plan.digest, runs * (plan.study.rounds.count + 1))
    assert ledger.behind is None
    ledger.close()
