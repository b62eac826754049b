"""`grandrounds audit engine`: its folder, its JSON, its exit codes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from common.errors import RunError, StudyError
from simulations.audit import engine, installation
from simulations.audit.commands import app
from tests.broken_engines import FAULTS, SMALL, sound_ways

_KEYS = {
    "verdict", "claimed_epsilon", "delta", "lower_bound_epsilon", "parametric_epsilon",
    "ceiling_epsilon", "tests",
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Let the command audit these ways, with little effort."""

    def audited(ways):
        monkeypatch.setattr(engine, "QUICK", replace(SMALL, p=1e-5))
        monkeypatch.setattr(installation, "ways_of", lambda *_, **__: ways)

    return audited


@pytest.mark.slow
def test_the_json_keeps_its_contract_and_the_folder_holds_the_evidence(tmp_path, quick):
    quick(sound_ways()[:1])
    out = tmp_path / "audit"
    result = CliRunner().invoke(app, ["engine", "--json", "--out", str(out)])
    values = json.loads(result.stdout)
    assert result.exit_code == 0
    assert values.keys() >= _KEYS
    assert {"name", "passed", "statistic", "threshold"} <= values["tests"][0].keys()
    kept = json.loads((out / "audit.json").read_text())
    assert kept["kind"] == "engine"
    assert kept["mechanism"]["sigma"] == 1.0
    assert kept["evidence"]["A one record"]


@pytest.mark.slow
def test_a_fault_exits_with_one_and_names_the_test(tmp_path, quick):
    quick(FAULTS["noise times 0.7"].ways())
    result = CliRunner().invoke(app, ["engine", "--out", str(tmp_path / "audit")])
    assert result.exit_code == 1
    assert "failed B one record, secure: scale: " in result.stdout


@pytest.mark.parametrize(
    ("options", "error"),
    [(["--model", "resnet"], StudyError), (["--device", "cuda:99"], StudyError)],
)
def test_what_is_not_there_is_refused_before_a_folder_is_made(options, error, tmp_path):
    out = tmp_path / "audit"
    result = CliRunner().invoke(app, ["engine", *options, "--out", str(out)])
    assert isinstance(result.exception, error)
    assert not out.exists()


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path):
    (tmp_path / "audit.json").write_text("{}")
    result = CliRunner().invoke(app, ["engine", "--out", str(tmp_path)])
    assert isinstance(result.exception, RunError)
    assert (tmp_path / "audit.json").read_text() == "{}"


def test_help_has_an_example():
    result = CliRunner().invoke(app, ["engine", "--help"])
    assert "grandrounds audit engine --model conv4" in result.stdout
