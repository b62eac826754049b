"""Several cohorts at the command line: chosen, reviewed, approved, shown, withdrawn from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.ledger import Key, Ledger
from tests.command_line import Ended, run_command
from tests.documents import ROOT, blocks, commands, section
from tests.small_world import add_cohort, change_cohort, csv_text, made_site, small_plan, study_file

PLAN = small_plan()
Command = Callable[..., Ended]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a `site` command."""
    return lambda *words: run_command(monkeypatch, capsys, "site", *words)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = made_site(tmp_path / "alpha")
    text = csv_text(seed=1, patients=30)
    add_cohort(folder, "ward", text=text, declared=30, disjoint=True)
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return study_file(tmp_path / "study.toml")


def charge(folder: Path) -> None:
    ledger = Ledger(folder / "ledger.sqlite")
    key = Key(PLAN.digest, "main", "train", 1)
    ledger.reserve(key, delta=PLAN.delta, events=PLAN.training_prices(rounds=3))
    ledger.close()


def plain(ended: Ended) -> Any:
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_a_study_is_checked_reviewed_and_approved_for_a_cohort(
    site: Command, folder: Path, study: Path
) -> None:
    assert plain(site("check", folder, study, "--json"))[0]["patients"] == 40
    (found,) = plain(site("check", folder, study, "--cohort", "ward", "--json"))
    assert (found["cohort"], found["patients"], found["declared"]) == ("ward", 30, 30)
    assert "small, cohort ward" in site("check", folder, study, "--cohort", "ward").out
    said = plain(site("review", folder, study, "--cohort", "ward", "--json"))
    assert (said["cohort"], said["counted_together"]) == ("ward", ["ward"])
    assert "add up are those of cohort ward" in site(
        "review", folder, study, "--cohort", "ward"
    ).out.replace("\n", " ")
    done = plain(site("approve", folder, study, "--cohort", "ward", "--json"))
    assert (done["cohort"], done["patients"]) == ("ward", 30)
    # From now on it is the study's cohort wherever none is named.
    assert plain(site("review", folder, study, "--json"))["cohort"] == "ward"
    assert [one["cohort"] for one in plain(site("check", folder, "--json"))] == ["ward"]
    assert "cohort    ward" in site("approve", folder, study).out


def test_the_budget_is_shown_by_cohort_and_study(site: Command, folder: Path, study: Path) -> None:
    site("approve", folder, study, "--cohort", "ward")
    charge(folder)
    found = plain(site("budget", folder, "--json"))
    lines = {line["cohort"]: line for line in found["cohorts"]}
    assert lines["main"]["epsilon"]["spent"] == 0
    assert lines["ward"]["epsilon"]["spent"] == found["epsilon"]["spent"] > 0
    assert [(line["study"], line["cohort"]) for line in found["studies"]] == [("small", "ward")]
    shown = site("budget", folder).out
    for words in ("A patient's life, by cohort", "ward", "main", "adds up with"):
        assert words in shown
    assert plain(site("status", folder, "--json"))["studies"][0]["cohort"] == "ward"
    values = plain(site("report", folder, "--json"))
    assert [row["cohort"] for row in values["cohorts"]] == ["main", "ward"]
    assert {row["cohorts"] for row in values["spending"]} == {"ward"}
    page = (folder / "report.html").read_text()
    assert "none: it stands alone" in page
    assert "cohort ward" in page


def test_a_cohort_that_was_composed_once_says_why(site: Command, folder: Path, study: Path) -> None:
    change_cohort(folder, "ward", disjoint=False)
    site("approve", folder, study, "--cohort", "ward")
    charge(folder)
    change_cohort(folder, "ward", disjoint=True)
    said = site("review", folder, study).out.replace("\n", " ")
    assert "marked disjoint and does not stand alone" in said
    (row,) = plain(site("status", folder, "--json"))["studies"]
    assert row["cohort_changed"] == "path or disjoint CHANGED: approve again"
    (ward,) = [
        x for x in plain(site("budget", folder, "--json"))["cohorts"] if x["cohort"] == "ward"
    ]
    assert ward["together"] == ["main", "ward"]
    assert "while it was not marked disjoint" in ward["shared"]


@pytest.mark.parametrize("command", ["check", "review", "approve"])
def test_an_unknown_cohort_is_one_message(
    site: Command, folder: Path, study: Path, command: str
) -> None:
    done = site(command, folder, study, "--cohort", "word")
    assert done.code == 2
    assert "cohort 'word' is not in" in done.err.replace("\n", " ")
    assert "[cohorts.word]" in done.err
    assert "Traceback" not in done.err


def test_checking_a_cohort_without_a_study_says_what_to_give(site: Command, folder: Path) -> None:
    done = site("check", folder, "--cohort", "ward")
    assert done.code == 2
    assert "for cohort 'ward'" in done.err


def test_a_study_that_has_a_cohort_is_refused_another(
    site: Command, folder: Path, study: Path
) -> None:
    site("approve", folder, study, "--cohort", "ward")
    charge(folder)
    for command in ("review", "approve"):
        done = site(command, folder, study, "--cohort", "main")
        assert done.code == 2
        assert "--cohort ward" in done.err.replace("\n", " ")


def test_withdrawing_by_number_asks_which_cohort_and_by_id_does_not(
    site: Command, folder: Path, tmp_path: Path
) -> None:
    for name, cohort in (("one", "main"), ("two", "ward")):
        numbered = study_file(tmp_path / "study.toml", name=name, cohort={"patient": None})
        assert site("approve", folder, numbered, "--cohort", cohort).code == 0
    open_question = site("withdraw", folder, "record:2")
    assert open_question.code == 2
    assert "cohorts main, ward" in open_question.err.replace("\n", " ")
    assert site("withdraw", folder, "record:2", "--cohort", "ward").code == 0
    ledger = Ledger(folder / "ledger.sqlite")
    assert len(ledger.withdrawn()) == 1
    ledger.close()
    found = {f["cohort"]: f["patients"] for f in json.loads(site("check", folder, "--json").out)}
    assert found == {"main": _records(40, seed=0), "ward": _records(30, seed=1) - 1}
    done = site("withdraw", folder, "p3", "--cohort", "ward")
    assert (done.code, "leave --cohort out" in done.err.replace("\n", " ")) == (2, True)


def test_the_documents_example_does_what_they_say(
    site: Command, tmp_path: Path, study: Path
) -> None:
    text = section((ROOT / "docs" / "operations.md").read_text(), "Several cohorts")
    folder = made_site(tmp_path / "beta")
    (config,) = blocks(text, "toml")
    for name, seed in (("day_clinic", 1), ("paediatrics", 2)):
        (tmp_path / f"{name}.csv").write_text(csv_text(seed=seed))
    declared = config.replace("declared = 150", "declared = 40").replace("= 80", "= 40")
    whole = (folder / "cohort.toml").read_text() + declared
    (folder / "cohort.toml").write_text(whole.replace("/srv/patients", str(tmp_path)))
    places = {"DIR": folder, "study.toml": study}
    for line in commands("".join(blocks(text, ""))):
        words = line.split()[1:]
        done = site(*(places.get(word, word) for word in words))
        assert done.code == 0, (line, done.err)
    found = {line["cohort"]: line for line in plain(site("budget", folder, "--json"))["cohorts"]}
    assert found["paediatrics"]["together"] == ["paediatrics"]
    assert found["day_clinic"]["together"] == found["main"]["together"] == ["main", "day_clinic"]
    assert plain(site("status", folder, "--json"))["studies"][0]["cohort"] == "paediatrics"


def _records(patients: int, *, seed: int) -> int:
    return len(csv_text(seed=seed, patients=patients).splitlines()) - 1
