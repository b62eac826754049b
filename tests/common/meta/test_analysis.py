"""The whole analysis and its command: the contract of --json, few studies, pages, refusals."""

import json
import math

import pytest

from common.meta.analysis import analyse
from tests.command_line import run_command
from tests.meta_tables import TABLES, given, table, write

CONTRACT = {
    "measure", "method", "k", "estimate", "se", "ci_low", "ci_high", "tau2", "tau2_low",
    "tau2_high", "i2", "q", "q_p", "prediction_low", "prediction_high", "egger", "trim_and_fill",
    "studies",
}  # fmt: skip
MEASURES = {"bcg": "RR", "egger2001": "OR", "normand1999": "SMD", "hackshaw1998": "OR"}


@pytest.fixture(scope="module")
def bcg(tmp_path_factory):
    effects = table(tmp_path_factory.mktemp("bcg"), "bcg", "RR")
    return analyse(effects, by="alloc")


def test_the_values_hold_to_the_contract(bcg):
    assert set(bcg) >= CONTRACT
    assert set(bcg["egger"]) >= {"intercept", "t", "p"}
    assert set(bcg["trim_and_fill"]) >= {"k0", "estimate"}
    assert (bcg["measure"], bcg["method"], bcg["k"]) == ("RR", "REML", 13)
    assert json.loads(json.dumps(bcg, allow_nan=False)) == bcg
    assert bcg["estimate"] == pytest.approx(-0.7145, abs=5e-5)
    assert (bcg["tau2_low"], bcg["tau2_high"]) == pytest.approx((0.1197, 1.1115), abs=5e-5)
    assert math.exp(bcg["prediction_low"]) == pytest.approx(0.155, abs=5e-4)
    assert bcg["ratio"]["prediction_high"] == pytest.approx(1.549, abs=5e-4)
    assert bcg["hartung_knapp"]["se"] == pytest.approx(0.1808, abs=5e-5)


def test_the_studies_add_up_to_the_whole(bcg):
    assert sum(row["weight"] for row in bcg["studies"]) == pytest.approx(1)
    mean = sum(row["weight"] * row["estimate"] for row in bcg["studies"])
    assert mean == pytest.approx(bcg["estimate"])
    assert bcg["cumulative"][-1]["estimate"] == pytest.approx(bcg["estimate"])
    assert bcg["cumulative_order"] == "year"
    assert [row["group"] for row in bcg["studies"][3:6]] == ["random", "alternate", "alternate"]
    assert sum(group["k"] for group in bcg["subgroups"]["groups"]) == 13


def test_one_study_is_its_own_estimate_and_says_so(tmp_path):
    values = analyse(given(tmp_path, "yi,vi\n.1,.04\n"))
    assert values["estimate"] == 0.1
    for key in ("tau2", "tau2_low", "i2", "q_p", "prediction_low", "egger", "trim_and_fill"):
        assert values[key] is None, key
    assert any(note.startswith("One study") for note in values["notes"])


def test_two_studies_have_no_prediction_and_say_why(tmp_path):
    values = analyse(given(tmp_path, "yi,vi\n.1,.04\n.5,.02\n"))
    assert values["prediction_low"] is None
    assert any("no prediction interval" in note for note in values["notes"])


def test_equal_effects_have_no_spread(tmp_path):
    values = analyse(given(tmp_path, "yi,vi\n.1,.04\n.1,.02\n.1,.03\n"))
    assert (values["tau2"], values["i2"]) == (0.0, 0.0)
    assert values["q"] == pytest.approx(0, abs=1e-12)
    assert values["trim_and_fill"]["k0"] == 0
    assert any("All effects are equal" in note for note in values["notes"])


def test_an_auc_is_told_as_an_auc(tmp_path):
    text = "hospital,auc,auc_low,auc_high\na,.8,.7,.87\nb,.7,.6,.8\nc,.9,.8,.95\n"
    values = analyse(given(tmp_path, text))
    assert values["ratio"] is None
    assert 0.7 < values["auc"]["estimate"] < 0.9
    assert values["studies"][0]["auc"]["estimate"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    "name",
    ["egger2001", *(pytest.param(n, marks=pytest.mark.slow) for n in TABLES if n != "egger2001")],
)
def test_the_command_prints_every_table_as_json(tmp_path, monkeypatch, capsys, name):
    options = ["--measure", MEASURES[name]] if name in MEASURES else []
    path = write(tmp_path, name)
    ended = run_command(monkeypatch, capsys, "meta", "analyse", path, *options, "--json")
    assert ended.code == 0
    values = json.loads(ended.out)
    assert set(values) >= CONTRACT
    assert len(values["studies"]) == values["k"] == len(TABLES[name].splitlines()) - 1


def test_the_command_prints_tables_and_writes_its_page(tmp_path, monkeypatch, capsys):
    path, folder = write(tmp_path, "bcg"), tmp_path / "plots"
    options = ("--measure", "rr", "--by", "alloc", "--plot", folder)
    ended = run_command(monkeypatch, capsys, "meta", "analyse", path, *options)
    assert ended.code == 0
    flat = " ".join(ended.out.split())
    said = ["0.489 [0.344, 0.696]", "[0.155, 1.549]", "\N{MINUS SIGN}2.112", "systematic"]
    for text in [*said, "RR from the columns tpos"]:
        assert text in flat, text
    names = {"forest", "funnel", "cumulative", "baujat", "influence"}
    assert {file.name for file in folder.iterdir()} == {f"{n}.svg" for n in names} | {"meta.html"}


def test_the_command_compares_regression_and_networks(tmp_path, monkeypatch, capsys):
    rows = "\n".join(f".{i},.0{i + 1},{i}" for i in range(1, 6))
    path = tmp_path / "few.csv"
    path.write_text(f"yi,vi,x\n{rows}\n", encoding="utf-8")
    ended = run_command(monkeypatch, capsys, "meta", "analyse", path, "--on", "x")
    assert ended.code == 0
    flat = " ".join(ended.out.split())
    assert "Meta-regression (analysis scale)" in flat
    assert "Each of 5 studies predicted from the others" in flat


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--measure", "XY"], "measure is 'XY'"),
        (["--method", "XY"], "method is 'XY'"),
        (["--test", "xy"], "test is 'xy'"),
        (["--by", "nothing"], "no column 'nothing'"),
        (["--on", "nothing"], "no column 'nothing'"),
        (["--columns", "ai"], "without a column"),
        (["--measure", "AUC"], "lacks columns for AUC"),
    ],
)
def test_a_mistake_is_one_message(tmp_path, monkeypatch, capsys, options, said):
    ended = run_command(monkeypatch, capsys, "meta", "analyse", write(tmp_path, "bcg"), *options)
    assert ended.code == 2
    assert said in ended.err
    assert "remedy" in ended.err


def test_a_missing_table_is_one_message(tmp_path, monkeypatch, capsys):
    ended = run_command(monkeypatch, capsys, "meta", "analyse", tmp_path / "none.csv")
    assert ended.code == 2
    assert "there is no file" in ended.err
