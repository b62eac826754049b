"""`sim fewshot`: who trains, who is met, what is told, and what `sim run` adds."""

import json
from pathlib import Path

import pytest

from common.errors import StudyError
from common.report.fewshot_page import few_shot_html
from common.schema import dump_toml
from simulations import settings
from simulations.fewshot.results import few_shot_metrics
from simulations.fewshot.run import few_shot
from simulations.fewshot.table import remarks_of
from simulations.results import metrics_of
from simulations.runner import compare, prepare
from tests.command_line import run_command
from tests.few_shot_world import WAYS, few_shot_study, write_pictures

METHODS = [
    {"use": "scratch", "options": {"steps": 2}},
    "fedrep+prototype",
    {"arm": "reptile", "use": "adapt", "episodes": 2, "options": {"steps": 2}},
]


@pytest.fixture(autouse=True)
def _own_data(monkeypatch):
    """The study names its own folder, which the variable would overrule."""
    monkeypatch.delenv("GRANDROUNDS_DATA", raising=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("fewshot") / "run"
    study = few_shot_study(data, methods=METHODS, shots=[3])
    prepare(study, run_dir)
    run = few_shot(study, run_dir, engine="inprocess", say=lambda line: None)
    return run, few_shot_metrics(run, run_dir, engine="inprocess", seconds=1.0), run_dir


def test_the_contract_of_the_json(found):
    _, metrics, _ = found
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert set(metrics["held_out"]) == set(WAYS)
    for name, site in metrics["held_out"].items():
        assert site["ways"] == WAYS[name]
        assert list(site["shots"]) == ["3"]
        rows = site["shots"]["3"]
        # Raw pixels and gradients are in every table of pictures, asked for or not.
        assert list(rows) == ["logistic_pixels", "logistic_hog", "scratch", "fedrep+prototype",
                              "reptile+adapt"]  # fmt: skip
        for method, row in rows.items():
            assert {"accuracy", "recall", "ci95", "episodes", "epsilon"} <= set(row)
            assert row["episodes"] == (2 if method == "reptile+adapt" else 4)
            assert 0 <= row["p5"] <= row["accuracy"] <= row["p95"] <= 1
            assert ("auc" in row) == ("wss95" in row) == (name == "south")
        assert rows["logistic_pixels"]["accuracy"] > 0.9  # these pictures are easy
    assert set(metrics["mean"]["3"]) == set(rows)


def test_the_readme_names_every_key(found):
    """Fault it is for: a contract of three keys, and a JSON of twelve more."""
    _, metrics, _ = found
    text = (Path(__file__).parents[3] / "README.md").read_text()
    site = metrics["held_out"]["south"]
    row = site["shots"]["3"]["fedrep+prototype"]
    method = metrics["methods"]["fedrep+prototype"]
    mean = metrics["mean"]["3"]["fedrep+prototype"]
    keys = {*metrics, *site, *row, *row["over"]["scratch"], *method, *mean, *metrics["centres"][0]}
    untold = {key for key in keys if f"`{key}`" not in text}
    assert untold == {"schema", "description", "versions"}


def test_a_new_hospital_takes_no_part_in_training(found):
    """Fault it is for: the disease that is new was in the training."""
    _, _, run_dir = found
    jobs = sorted(p.name for p in (run_dir / "sites").iterdir())
    assert len(jobs) == 6
    for job in jobs:
        new = job.split("-without-")[1].removesuffix("-seed-0")
        assert {p.name for p in (run_dir / "sites" / job).iterdir()} == set(WAYS) - {new}


def test_it_can_be_resumed_and_repeats_itself(found, data, tmp_path):
    """What a folder holds is read, and what it does not is the same again."""
    run, metrics, run_dir = found
    study = run.study
    said = []
    again = few_shot(study, run_dir, engine="inprocess", say=said.append)
    assert said == []
    assert few_shot_metrics(again, run_dir, engine="inprocess", seconds=1.0) == metrics
    file = run_dir / "episodes" / "west.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({m: v for m, v in kept.items() if m != "fedrep+prototype"}))
    again = few_shot(study, run_dir, engine="inprocess", say=said.append)
    assert [line.partition(" 0")[0] for line in said] == ["west: fedrep+prototype"]
    assert again.sites == run.sites


def test_the_page_says_how_far_to_trust_it(found):
    _, metrics, _ = found
    page = few_shot_html(metrics)
    for text in ("of a 95% interval", "5th to 95th", "accuracy over scratch", "west: 4 classes"):
        assert text in page
    assert page.count("<svg") == 1


def table_of(difference, ci95):
    row = {"over": {"scratch": {"difference": difference, "ci95": ci95}}}
    site = {"shots": {"5": {"a+svm": row}}}
    methods = {"a+svm": {"baseline": False}}
    held_out = {"x": site, "y": {"shots": {"5": {"a+svm": {"over": row["over"]}}}}}
    return {"measure": "accuracy", "shots": ["5"], "methods": methods, "held_out": held_out}


def test_a_method_that_is_not_better_is_named():
    """Fault it is for: a gain that the episodes cannot tell from none, told as a gain."""
    assert remarks_of(table_of(0.05, 0.01)) == []
    (line,) = remarks_of(table_of(0.05, 0.06))
    assert line.startswith("Nowhere better than scratch")
    mixed = table_of(0.05, 0.01)
    mixed["held_out"]["y"]["shots"]["5"]["a+svm"] = {
        "over": {"scratch": {"difference": -0.1, "ci95": 0.01}}
    }
    (line,) = remarks_of(mixed)
    assert "a+svm not at y (5)" in line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"held_out": ["east"]}, "names hospital 'east', and the hospitals are north, south, west"),
        ({"shots": [12]}, "class 1 of hospital 'north' has 12 patients"),
        ({"held_out": ["south"], "ways": 3}, "hospital 'south' has 2 classes"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(data, tmp_path, changes, said):
    study = few_shot_study(data, **changes)
    prepare(study, tmp_path / "run")
    with pytest.raises(StudyError, match=said):
        few_shot(study, tmp_path / "run", engine="inprocess", say=lambda line: None)
    assert not (tmp_path / "run" / "sites").exists()


def test_a_run_leaves_the_new_hospital_out_and_then_meets_it(data, tmp_path):
    study = few_shot_study(data, new=["west"], shots=[3], sources=True)
    prepare(study, tmp_path / "run")
    run = compare(study, tmp_path / "run", engine="inprocess", say=lambda line: None)
    metrics = metrics_of(run, tmp_path / "run", engine="inprocess", seconds=1.0)
    assert {site["name"] for site in metrics["sites"]} == {"north", "south"}
    assert set(metrics["fewshot"]["held_out"]) == {"west"}
    assert set(metrics["fewshot"]["sources"]["west"]) == {"north", "south"}
    jobs = {p.name for p in (tmp_path / "run" / "sites").iterdir()}
    assert jobs == {"fedrep-seed-0"}  # met with the very body that was compared


def test_epsilon_is_of_the_methods_that_paid_it(data, tmp_path):
    values = few_shot_study(data, held_out=["west"], methods=["fedrep+svm", "reptile+svm"],
                            shots=[1], episodes=1).model_dump(mode="json")  # fmt: skip
    values["privacy"] = {"sigma": 4.0, "delta": 1e-3}
    (tmp_path / "study.toml").write_text(dump_toml(values))
    from common.study import load_study

    study = load_study(tmp_path / "study.toml")
    prepare(study, tmp_path / "run")
    run = few_shot(study, tmp_path / "run", engine="inprocess", say=lambda line: None)
    metrics = few_shot_metrics(run, tmp_path / "run", engine="inprocess", seconds=1.0)
    rows = metrics["held_out"]["west"]["shots"]["1"]
    assert rows["fedrep+svm"]["epsilon"] == run.plans["fedrep"].epsilon > 0
    assert rows["reptile+svm"]["epsilon"] is rows["logistic_pixels"]["epsilon"] is None
    assert metrics["private_arms"] == ["fedrep"]


def test_the_command_prints_the_contract_and_resumes(monkeypatch, capsys, tmp_path, data):
    monkeypatch.chdir(tmp_path)
    study = few_shot_study(data, held_out=["south"])
    (tmp_path / "study.toml").write_text(dump_toml(study.model_dump(mode="json")))
    options = ["--ways", "all", "--shots", "1,2/3", "--episodes", "2", "--out", "r"]
    ended = run_command(monkeypatch, capsys, "sim", "fewshot", "study.toml", *options, "--json")
    assert ended.code == 0
    first = json.loads(ended.out)
    assert first["shots"] == ["1", "2/3"]
    assert first["measure"] == "auc"
    ended = run_command(monkeypatch, capsys, "sim", "fewshot", "--resume", "r")
    assert ended.code == 0
    assert "south: 2 classes" in ended.out
    assert "WSS@95" in ended.out
    assert "A few labelled cases" in (tmp_path / "r" / "report.html").read_text()
    ended = run_command(monkeypatch, capsys, "sim", "loho", "--resume", "r")
    assert ended.code == 3
    assert "holds a run of grandrounds sim fewshot" in ended.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ways", "one"], "--ways is 'one'"),
        (["--ways", "1"], "--ways is '1'"),
        (["--shots", "0"], "--shots has '0'"),
        (["--shots", ","], "has no number in it"),
        (["--shots", "5/x"], "shots has '5/x'"),
        (["--methods", "fedrep+magic"], "methods"),
        (["--ways", "9", "--shots", "1"], "--ways (simulation.fewshot.ways) is 9"),
    ],
)
def test_a_mistake_is_one_message(monkeypatch, capsys, tmp_path, data, options, said):
    monkeypatch.chdir(tmp_path)
    study = few_shot_study(data, held_out=["south"])
    (tmp_path / "study.toml").write_text(dump_toml(study.model_dump(mode="json")))
    ended = run_command(monkeypatch, capsys, "sim", "fewshot", "study.toml", *options)
    assert ended.code == 2
    assert said in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert "remedy" in ended.err


def test_a_method_of_the_studys_own_is_asked_for_by_its_name(data):
    """Fault it is for: a name read as an arm and a use, with other options than the study's."""
    mine = {"arm": "fedrep", "use": "logistic+hog", "name": "mine", "episodes": 2}
    study = few_shot_study(data, methods=[mine, "scratch"], shots=[3])
    asked = settings._with_options(study, {"command": "fewshot", "methods": "mine,fedrep+svm"})
    found = asked.simulation.fewshot.methods
    assert [method.name for method in found] == ["mine", "fedrep+svm"]
    assert (found[0].arm, found[0].episodes) == ("fedrep", 2)
