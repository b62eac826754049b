"""The commands about patients and models, as the hospital's engineer meets them."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from client.commands.patients import register
from client.desk.received import keep
from client.ledger import Key, Ledger
from client.site import load_site
from common.codec import encode
from common.errors import GrandroundsError, SiteError
from common.models import build, params_of
from tests.small_world import hospital, small_plan

PLAN = small_plan()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    hospital(folder, PLAN)
    (folder / "keys").mkdir()
    (folder / "keys" / "secret").write_bytes(b"s" * 32)
    ledger = Ledger(folder / "ledger.sqlite")
    payload = encode(params_of(build(PLAN.study)))
    keep(folder, ledger=ledger, digest=PLAN.digest, run="run-1", payload=payload, card="")
    for phase, price in (
        ("train", PLAN.training_prices()[0]),
        ("evaluate", PLAN.evaluation_price()),
    ):
        for number in (1, 2, 3):
            key = Key(PLAN.digest, "run-1", phase, number)
            ledger.reserve(key, delta=PLAN.delta, events=[price])
    ledger.close()
    return folder


def said(*arguments: object) -> str:
    """Run a `site` command that succeeds and return what it prints."""
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    if isinstance(result.exception, GrandroundsError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_withdraw_lists_the_runs(folder: Path) -> None:
    found = said("withdraw", folder, "p7")
    assert "in no round from now on" in found
    assert "run-1" in found
    assert "1-3" in found
    assert "stays released" in found
    assert "withdrawn before, on 20" in said("withdraw", folder, "p7")


def test_withdraw_as_plain_values(folder: Path) -> None:
    found = json.loads(said("withdraw", folder, "p7", "--json"))
    assert [use["rounds"] for use in found["runs"]] == [[1, 2, 3]]
    assert not found["already"]


def test_withdraw_needs_an_id_of_the_cohort_or_anyway(folder: Path) -> None:
    with pytest.raises(SiteError, match="PATIENT_ID is 'nobody'"):
        said("withdraw", folder, "nobody")
    assert "does not hold this id now" in said("withdraw", folder, "nobody", "--anyway")


def test_predict_prints_and_writes_a_file_for_its_own_user(folder: Path, tmp_path: Path) -> None:
    new, out = tmp_path / "new.csv", tmp_path / "out.csv"
    new.write_text("patient,number,pressure\nx[1],5,150\n")
    found = said("predict", folder, new, "--as", "adapted", "--out", out)
    assert "does not leave the hospital" in found
    assert "x[1]" in found
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert row["patient"] == "x[1]"
    assert 0 < float(row["probability ill"]) < 1
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["new.csv", "patients", "site/ledger.sqlite"])
def test_predict_writes_over_no_patients_and_no_file_of_the_site(
    folder: Path, tmp_path: Path, name: str
) -> None:
    new = tmp_path / "new.csv"
    new.write_text("patient,number,pressure\nx1,5,150\n")
    patients = next(iter(load_site(folder).views())).source.path
    out = patients if name == "patients" else tmp_path / name
    before = out.read_bytes()
    with pytest.raises(SiteError, match="--out is "):
        said("predict", folder, new, "--out", out)
    assert out.read_bytes() == before


def test_predict_as_plain_values(folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.csv"
    new.write_text("patient,number,pressure\nx1,5,150\n")
    found = json.loads(said("predict", folder, new, "--run", "run-1", "--json"))
    assert found["predictions"][0]["probability ill"] == 0.5  # the delivered weights are zeros
    assert (found["run"], found["form"]) == ("run-1", "received")


def test_report_writes_the_page(folder: Path) -> None:
    found = said("report", folder)
    assert str(folder / "report.html") in found
    assert (folder / "report.html").is_file()
    assert json.loads(said("report", folder, "--json"))["site"] == "site"


@pytest.mark.parametrize("command", ["withdraw", "predict", "report"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    assert "Example: grandrounds site" in said(command, "--help")


@pytest.mark.parametrize("arguments", [("withdraw", "p1"), ("predict", "new.csv"), ("report",)])
def test_a_folder_that_is_none_is_told(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    command, *rest = arguments
    with pytest.raises(SiteError, match=r"site folder .* does not exist"):
        said(command, tmp_path / "absent", *rest)
