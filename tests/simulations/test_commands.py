"""The command line as a user meets it: results, mistakes, interrupts, resumption."""

import errno
import json
import os
import re
import runpy
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

import client.agent
import common.cli
from common.embedded import find_study
from common.files import only_one
from common.schema import dump_toml
from common.study import load_study
from simulations.engines import run_in_process
from tests.command_line import run_command

ARMS = "local,reptile"


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRANDROUNDS_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        return run_command(monkeypatch, capsys, *arguments)

    return run


def study_file(folder, **changes):
    """Write the default study with some tables changed: learner={"local_steps": 2}."""
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    for table, change in changes.items():
        values[table] = values[table] | change if isinstance(values[table], dict) else change
    path = folder / "study.toml"
    path.write_text(dump_toml(values))
    return path


def two_sites(folder, *, first="id,x,outcome\n", rows=80, **changes):
    """Write a study of two hospitals with files of their own; `first` is put before the rows."""
    (folder / "a.csv").write_text(
        first + "".join(f"p{i},{(i * 37 % 101) / 10},{'yn'[i % 2]}\n" for i in range(rows))
    )
    (folder / "b.csv").write_text(
        "id,x,outcome\n"
        + "".join(f"q{i},{(i * 53 % 97) / 10},{'yn'[i % 3 == 0]}\n" for i in range(80))
    )
    label = {"column": "outcome", "classes": ["no", "yes"], "map": {"n": "no", "y": "yes"}}
    values = {
        "name": "two",
        "cohort": {
            "patient": "id",
            "label": label,
            "features": [{"name": "x", "range": [0, 10]}],
        },
        "learner": {"learning_rate": 0.5, "local_steps": 2},
        "rounds": {"count": 2, "quorum": 1},
        "privacy": {"epsilon": 3.0, "delta": 1e-3},
        "simulation": {
            "arms": ["local", "reptile"],
            "sites": {n: {"path": f"{n}.csv", "declared": 80} for n in "ab"},
        },
    }
    for table, change in changes.items():
        values[table] = values.get(table, {}) | change
    path = folder / "two.toml"
    path.write_text(dump_toml(values))
    return path


def test_the_default_study_gives_the_documented_json_and_files(cli):
    code, out, err = cli("sim", "run", "--seeds", 2, "--out", "run", "--json")
    metrics = json.loads(out)
    assert code == 0
    assert "run folder: run" in err
    assert {"run_dir", "study_digest", "seconds", "rounds", "privacy", "arms", "sites"} <= set(
        metrics
    )
    promise = {
        *("epsilon", "delta", "unit", "adjacency", "accountant", "sigma"),
        *("sampling_rate", "steps", "releases"),
    }
    assert promise <= set(metrics["privacy"])
    assert list(metrics["arms"]) == ["majority", "local", "pooled", "fedavg", "reptile"]
    figures = {"mean_auc", "mean_accuracy", "weighted_accuracy", "sd_auc", "sd_accuracy"}
    for arm in metrics["arms"].values():
        assert figures | {"epsilon", "adapted"} <= set(arm)
        assert figures <= set(arm["adapted"])
    assert metrics["arms"]["reptile"]["epsilon"] == pytest.approx(3.0, abs=1e-3)
    assert metrics["arms"]["local"]["epsilon"] is None
    assert [s["name"] for s in metrics["sites"]] == [
        *("harbour", "hillside", "island", "lakeside", "university", "valley")
    ]
    assert {"auc", "auc_low", "auc_high"} <= set(metrics["sites"][0]["private"])
    names = {p.name for p in Path("run").iterdir()}
    assert {
        *("study.toml", "metrics.json", "run.sqlite", "checkpoints"),
        *("model.safetensors", "model_card.md", "report.html"),
    } <= names
    assert json.loads(Path("run/metrics.json").read_text()) == metrics
    assert not [p for p in Path("run").rglob("*") if p.suffix in {".pkl", ".pt", ".pth"}]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures_and_another_seed_others(cli):
    def arms(seed, out):
        _, text, _ = cli("sim", "run", "--arms", ARMS, "--seeds", 1, "--seed", seed,
                         "--out", out, "--json")  # fmt: skip
        return json.loads(text)["arms"]

    first = arms(5, "a")
    assert arms(5, "b") == first
    assert arms(6, "c") != first


@pytest.mark.slow
def test_another_epsilon_is_another_study_and_says_so(cli):
    _, text, _ = cli("sim", "run", "--arms", "reptile", "--seeds", 1, "--out", "a", "--json")
    code, other, err = cli("sim", "run", "--arms", "reptile", "--seeds", 1, "--out", "b",
                           "--epsilon", 8, "--json")  # fmt: skip
    before, after = json.loads(text), json.loads(other)
    assert code == 0
    assert before["study_digest"] != after["study_digest"]
    assert after["study_digest"][:16] in err
    assert after["privacy"]["epsilon"] == pytest.approx(8.0, abs=5e-3)
    assert after["privacy"]["sigma"] < before["privacy"]["sigma"]


def test_without_privacy_every_page_says_so(cli):
    code, out, err = cli("sim", "run", "--arms", "reptile", "--seeds", 1, "--out", "run",
                         "--epsilon", "none")  # fmt: skip
    assert code == 0
    assert "not private" in out.lower()
    assert "NOT PRIVATE" in err
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["privacy"]["epsilon"] is None
    assert metrics["arms"]["reptile"]["epsilon"] is None
    for page in ("report.html", "model_card.md"):
        assert "not private" in Path("run", page).read_text().lower()


@pytest.mark.slow
def test_ctrl_c_in_a_round_is_resumed_to_the_same_weights(cli, monkeypatch):
    options = ("--arms", "reptile", "--seeds", 2)
    assert cli("sim", "run", *options, "--out", "whole")[0] == 0
    handle, calls = client.agent.Agent.handle, []

    def interrupted(self, request):
        calls.append(request.header["kind"])
        if calls.count("train") == 15:  # the third hospital of the third round
            calls.append("train")
            raise KeyboardInterrupt
        return handle(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(client.agent.Agent, "handle", interrupted)
        code, _, err = cli("sim", "run", *options, "--out", "cut")
    assert code == 130
    assert "--resume cut" in err
    assert cli("report", "cut")[0] == 3  # readable: it says that there are no metrics yet
    code, _, _ = cli("sim", "run", "--resume", "cut")
    assert code == 0
    whole, cut = (load_file(f"{n}/model.safetensors") for n in ("whole", "cut"))
    assert all(bool((whole[k] == cut[k]).all()) for k in whole)
    metrics = [json.loads(Path(n, "metrics.json").read_text()) for n in ("whole", "cut")]
    assert metrics[0]["arms"] == metrics[1]["arms"]


def test_a_round_paid_twice_is_shown_in_the_promise(cli, monkeypatch):
    learner = client.agent.learner_for
    crashes = iter([True])

    def crashing(plan):
        made = learner(plan)

        def adapt(*arguments):
            if next(crashes, False):
                raise KeyboardInterrupt  # after the reserve, before the commit
            return made.adapt(*arguments)

        return type(made)(made.name, made.init, adapt, made.apply)

    monkeypatch.setattr(client.agent, "learner_for", crashing)
    options = ("--arms", "reptile", "--seeds", 1)
    assert cli("sim", "run", *options, "--out", "run")[0] == 130
    code, out, _ = cli("sim", "run", "--resume", "run", "--json")
    assert code == 0
    # Six rounds are planned at epsilon 3; one hospital reserved seven.
    assert json.loads(out)["privacy"]["epsilon"] > 3.1


def test_a_full_disk_is_one_message_and_the_run_resumes(cli, monkeypatch):
    fsync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = cli("sim", "run", "--arms", "reptile", "--seeds", 1, "--out", "run")
    assert code == 3
    assert "disk" in err
    assert "full" in err
    assert "Traceback" not in err
    assert not list(Path("run").rglob(".*.safetensors*"))  # no half-written file
    assert cli("sim", "run", "--resume", "run")[0] == 0


def test_a_hospital_below_the_minimum_is_left_out_and_shown(cli, tmp_path):
    path = study_file(tmp_path, cohort={"min_declared": 45})
    code, out, err = cli("sim", "run", path, "--arms", ARMS, "--seeds", 1, "--out", "r", "--json")
    sites = {s["name"]: s for s in json.loads(out)["sites"]}
    assert code == 0
    assert sites["island"]["status"] == "left out: declared 40 is below the minimum of 45"
    assert sites["island"]["arms"] == {}
    assert "island is left out" in err
    assert "island" in Path("r/report.html").read_text()


def test_published_figures_are_shown_beside_the_runs_own(cli, tmp_path):
    published = {"source": "Others 2022", "rows": [{"method": "theirs", "mean_accuracy": 0.123}]}
    path = two_sites(tmp_path, simulation={"published": published})
    code, out, _ = cli("sim", "run", path, "--data", tmp_path, "--out", "run")
    assert code == 0
    assert "Published: Others 2022" in out
    assert "0.123" in out
    absent = ("mean_auc", "weighted_accuracy", "mean_c_index", "pooled_c_index")
    row = published["rows"][0] | {"epsilon": "", **dict.fromkeys(absent)}
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["published"] == {"source": "Others 2022", "note": "", "rows": [row]}
    assert "Others 2022" in Path("run/report.html").read_text()


def test_values_out_of_range_are_clamped_and_counted_at_the_site(cli, tmp_path):
    path = two_sites(tmp_path, first="id,x,outcome\nwild,1e9,y\n")
    code, out, err = cli("sim", "run", path, "--data", tmp_path, "--out", "run", "--json")
    assert code == 0
    log = Path("run/sites/reptile-seed-0/a/site.log").read_text()
    assert "x: 1 out of [0, 10], clamped" in log
    assert not Path("run/sites/reptile-seed-0/b/site.log").exists()
    # A simulation shows what is exact; nothing of it went through the gate, to the run store.
    notes = {site["name"]: site["notes"] for site in json.loads(out)["sites"]}
    assert notes == {"a": ["x: 1 out of [0, 10], clamped"], "b": []}
    assert "a: x: 1 out of [0, 10], clamped (exact, would not leave the hospital)" in err
    for kept in [*Path("run").glob("run.sqlite*"), *Path("run/checkpoints").rglob("*")]:
        assert kept.is_dir() or b"clamped" not in kept.read_bytes()


def test_copies_are_told_to_a_simulations_user(cli, tmp_path):
    path = two_sites(tmp_path)
    text = (tmp_path / "a.csv").read_text().splitlines()
    (tmp_path / "a.csv").write_text("\n".join([*text, *text[1:4]]) + "\n")
    _, _, err = cli("sim", "run", path, "--data", tmp_path, "--out", "run")
    assert "a: copies: 6 exact ones in 3 groups" in err
    assert "b: copies" not in err


MISTAKES = {
    "unknown key": ({"learner": {"local_stepz": 3}}, "", "learner.local_stepz", 2),
    "bad value": ({"rounds": {"count": 0}}, "", "rounds.count is 0", 2),
    "all too small": ({"cohort": {"min_declared": 500}}, "", "cohort.min_declared is 500", 2),
    "no such noise": (
        {"privacy": {"epsilon": 1e-6, "delta": 1e-9}}, "", "privacy.epsilon is 1e-06", 2,
    ),
    "unknown label": ({}, "id,x,outcome\np,1,maybe\n", "label 'maybe'", 2),
    "missing column": ({}, "id,z,outcome\n", "no column 'x'", 2),
    "not a number": ({}, "id,x,outcome\np,tall,y\n", "'tall'", 2),
    "quorum": ({"rounds": {"quorum": 3}}, "", "rounds.quorum is 3, and 2 hospitals take part", 2),
    "weights": ({"model": {"weights": "w.safetensors"}}, "", "there is no such file", 2),
    "delta": ({"privacy": {"delta": 0.01}}, "", "needs a delta of at most 0.00125", 2),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_with_a_remedy(cli, tmp_path, mistake):
    changes, first, message, expected = MISTAKES[mistake]
    path = two_sites(tmp_path, first=first or "id,x,outcome\n", **changes)
    code, out, err = cli("sim", "run", path, "--data", tmp_path, "--out", "run")
    assert code == expected
    assert message in err
    assert "remedy:" in err
    assert "Traceback" not in err
    assert out == ""
    assert not Path("run").exists()  # going on with it would fail in the same way


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sim", "run", "nowhere.toml"], "'nowhere.toml'"),
        (["sim", "run", "--engine", "steam"], "simulation.engine is 'steam'"),
        (["sim", "run", "--epsilon", "much"], "--epsilon is 'much'"),
        (["sim", "run", "--epsilon", "-1"], "privacy.epsilon"),
        (["sim", "run", "--epsilon", "1e-15"], "privacy.epsilon"),
        (["sim", "run", "--arms", ""], "simulation.arms"),
        (["sim", "run", "--out", "/dev/null/run"], "/dev/null/run"),
        (["sim", "run", "--out", "a-file"], "which is a file"),
        (["sim", "loho", "--shots", "0,few"], "--shots has 'few' in it"),
        (["sim", "loho", "--shots", ""], "--shots is '': it has no number in it"),
        (["sim", "loho", "--shots", ","], "--shots is ',': it has no number in it"),
        (["sim", "loho", "--shots", "-3"], "whole numbers, 0 or more"),
        (["sim", "loho", "--shots", "9" * 5000], "a number of 5000 digits"),
        (["sim", "run", "--arms", "magic"], "arm 'magic'"),
        (["sim", "run", "--split", "odd"], "simulation.split is 'odd'"),
        (["sim", "run", "heart"], "no data folder is given"),
        (["sim", "run", "heart", "--data", "nowhere"], "does not exist"),
        (["sim", "run", "--resume", "nowhere"], "holds no run to resume"),
        (["sim", "run", "--resume", "nowhere", "--seeds", "3"], "--seeds is given too"),
        (["study", "check", "nowhere.toml"], "is neither a file nor one that comes with"),
        (["report", "nowhere"], "holds no metrics.json"),
    ],
)
def test_a_wrong_option_names_itself(cli, arguments, message):
    Path("a-file").write_text("")
    code, _, err = cli(*arguments)
    assert code in (2, 3)
    assert message in err
    assert "remedy:" in err
    assert not Path("runs").exists()


def test_an_empty_file_is_refused_by_name(cli, tmp_path):
    path = two_sites(tmp_path)
    (tmp_path / "a.csv").write_text("")
    code, _, err = cli("sim", "run", path, "--data", tmp_path)
    assert code == 2
    assert "a.csv" in err
    assert "is empty" in err


def test_a_used_run_folder_is_not_overwritten(cli):
    options = ("sim", "run", "--arms", "majority", "--seeds", 1, "--out", "run")
    assert cli(*options)[0] == 0
    code, _, err = cli(*options)
    assert code == 3
    assert "already holds a run" in err


def test_study_check_says_what_leaves_and_what_it_costs(cli):
    code, out, _ = cli("study", "check", find_study("heart"))
    assert code == 0
    for words in ("What leaves it", "delta 0.0003", "unit: patient", "add/remove", "PLD", "0.3566"):
        assert words in out
    assert cli("study", "check", "heart")[1] == out
    code, out, _ = cli("study", "check", find_study("heart"), "--json")
    assert json.loads(out)["epsilon_by_round"][-1] == pytest.approx(1.0, abs=1e-3)


def test_the_module_is_the_command(monkeypatch, capsys):
    """Fault it is for: `python -m common.cli` ended at once and without a word."""
    monkeypatch.setattr(sys, "argv", ["grandrounds", "--version"])
    with pytest.raises(SystemExit):
        runpy.run_path(common.cli.__file__, run_name="__main__")
    assert re.fullmatch(r"grandrounds [\d.]+\n", capsys.readouterr().out)


def test_a_wrong_data_folder_leaves_nothing_behind_and_a_right_one_resumes(cli, tmp_path):
    path = two_sites(tmp_path)
    (tmp_path / "empty").mkdir()
    code, _, err = cli("sim", "run", path, "--data", tmp_path / "empty", "--out", "run")
    assert code == 2
    assert "a.csv" in err
    assert not Path("run").exists()
    assert cli("sim", "run", path, "--data", tmp_path, "--out", "run")[0] == 0
    (tmp_path / "moved").mkdir()
    for name in "ab":
        (tmp_path / f"{name}.csv").rename(tmp_path / "moved" / f"{name}.csv")
    assert cli("sim", "run", "--resume", "run", "--data", tmp_path / "moved")[0] == 0


def test_a_hospital_too_large_for_the_delta_is_left_out_and_shown(cli, tmp_path):
    path = study_file(tmp_path, privacy={"delta": 5e-4})
    code, out, err = cli("sim", "run", path, "--arms", ARMS, "--seeds", 1, "--out", "r", "--json")
    assert code == 0
    sites = {s["name"]: s for s in json.loads(out)["sites"]}
    assert sites["university"]["status"].startswith("left out: declared 220 needs a delta")
    assert "university is left out" in err


def test_a_run_is_resumed_by_the_command_that_began_it(cli):
    """Fault it is for: the other command went on in it, and its figures took their place."""
    options = ("--arms", "majority", "--seeds", 1, "--out", "run")
    assert cli("sim", "run", *options)[0] == 0
    before = Path("run/metrics.json").read_bytes()
    code, _, err = cli("sim", "loho", "--resume", "run")
    assert code == 3
    assert "go on with: grandrounds sim run --resume run" in err
    assert Path("run/metrics.json").read_bytes() == before
    text = Path("run/study.toml").read_text()
    assert 'command = "run"' in text
    Path("run/study.toml").write_text(text.replace('command = "run"', 'command = "loho"'))
    Path("run/metrics.json").unlink()
    assert "sim loho --resume run finishes one" in cli("report", "run")[2]
    code, _, err = cli("sim", "run", "--resume", "run")
    assert code == 3
    assert "go on with: grandrounds sim loho --resume run" in err
    Path("run/study.toml").unlink()
    assert "sim run --resume run (or sim loho" in cli("report", "run")[2]
    # What a run folder remembers does not bind a new run of the same study.
    Path("again.toml").write_text(text)
    assert cli("sim", "run", "again.toml", *options[:-1], "other")[0] == 0


def test_two_processes_do_not_run_one_folder(cli):
    options = ("sim", "run", "--arms", "majority", "--seeds", 1, "--out", "run")
    assert cli(*options)[0] == 0
    with only_one(Path("run")):
        code, _, err = cli("sim", "run", "--resume", "run")
    assert code == 3
    assert "is being run by another process" in err


def test_the_engine_is_remembered(cli, monkeypatch):
    opened = []

    @contextmanager
    def fake(name, *, run_dir):
        opened.append(name)
        yield run_in_process

    monkeypatch.setattr("simulations.runner.open_engine", fake)
    options = ("--arms", "reptile", "--seeds", 1, "--engine", "flower", "--out", "run")
    assert cli("sim", "run", *options)[0] == 0
    assert cli("sim", "run", "--resume", "run")[0] == 0
    assert opened == ["flower", "flower"]


def test_a_file_that_is_no_run_is_refused(cli):
    Path("run").mkdir()
    for text in ("[1]", "{}"):
        Path("run/metrics.json").write_text(text)
        code, _, err = cli("report", "run")
        assert code == 3
        assert "does not hold the metrics of a run" in err
