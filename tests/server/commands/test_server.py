"""The `server` commands as a coordinator meets them, without a SuperLink."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from typer.main import get_command
from typer.testing import CliRunner

from common.errors import RunError
from common.running import daemon
from server import deployment
from server.commands.server import app
from server.house.home import load_home
from server.report import write_pages
from server.store import FLOWER, METRICS, Reply, Store, program


def run(*arguments: object) -> str:
    """Run a command to its end and return what it prints; its errors are raised."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run("init", tmp_path / "c", "--host", "hub.example.org")
    return tmp_path / "c"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    path = tmp_path / "node.pub"
    path.write_bytes(public.public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH))
    return path


def test_every_command_has_help_and_an_example() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert {"init", "enroll", "revoke", "renew", "start", "stop", "status"} <= set(commands)
    for name, command in commands.items():
        assert command.help, name
        assert command.epilog.startswith(f"Example: grandrounds server {name}"), name


def test_init_says_what_it_made_and_what_comes_next(tmp_path: Path) -> None:
    said = run(
        "init", tmp_path / "c", "--host", "hub.example.org", "--systemd", "--container"
    ).replace("\n", " ")
    assert "hospitals call hub.example.org:9092" in said
    assert "server enroll" in said
    files = {path.name for path in (tmp_path / "c" / "deploy").iterdir()}
    assert files == {"Containerfile", "grandrounds-server.service"}
    assert (tmp_path / "c" / "nginx.conf").is_file()


def test_init_refuses_a_used_folder(folder: Path) -> None:
    with pytest.raises(RunError, match="in use"):
        run("init", folder, "--host", "hub.example.org")


def test_a_site_is_enrolled_shown_and_shut_out(folder: Path, key: Path) -> None:
    said = run("enroll", folder, "--name", "cleveland", "--key", key)
    assert "SHA256:" in said
    assert "it is told when it starts" in said
    found = json.loads(run("status", folder, "--json"))
    assert found["running"] is found["answers"] is False
    assert [(s["name"], s["state"]) for s in found["sites"]] == [("cleveland", "enrolled")]
    assert "cleveland" in run("status", folder)
    run("revoke", folder, "cleveland")
    assert json.loads(run("status", folder, "--json"))["sites"][0]["state"] == "revoked"


def test_a_run_that_cannot_be_read_does_not_hide_the_others(folder: Path) -> None:
    for name in ("broken", "empty"):
        (folder / "runs" / name).mkdir()
    (folder / "runs" / "broken" / "run.sqlite").write_text("no database")
    runs = json.loads(run("status", folder, "--json"))["runs"]
    assert [(r["run"], r["state"]) for r in runs] == [("broken", "unreadable")]


def begin(folder: Path, name: str) -> tuple[Store, Path]:
    """Record that a run begins, as its program does."""
    path = folder / "runs" / name
    path.mkdir()
    store = Store(path)
    store.start(name, digest="d" * 64, code="")
    return store, path


def status_of(folder: Path, name: str) -> dict[str, Any]:
    """Return what `server status` says of a run."""
    (row,) = (r for r in json.loads(run("status", folder, "--json"))["runs"] if r["run"] == name)
    return dict(row)


def test_a_run_whose_program_was_killed_is_interrupted_and_says_how_to_go_on(folder: Path) -> None:
    store, path = begin(folder, "r1")
    with closing(store):
        with daemon.hold(program(path)):
            alive = status_of(folder, "r1")
        assert (alive["state"], alive["remedy"]) == ("running", "")
        assert (found := status_of(folder, "r1"))["state"] == "interrupted"
        assert found["remedy"] == f"grandrounds server resume {folder.resolve()} r1"
        assert found["remedy"] in run("status", folder)
        store.end("r1", status="failed", message="no quorum", remedy="wait")
        assert (found := status_of(folder, "r1"))["state"] == "failed"
        assert (found["message"], found["remedy"][:25]) == (
            "no quorum",
            "grandrounds server resume",
        )


def test_a_run_that_finished_unwatched_has_its_model_still_to_be_written(folder: Path) -> None:
    store, path = begin(folder, "r1")
    with closing(store):
        store.end("r1", status="finished")
    assert "server resume" in status_of(folder, "r1")["remedy"]
    (path / METRICS).write_text("{}")
    assert (found := status_of(folder, "r1"))["remedy"] == ""
    assert found["state"] == "finished"


def test_status_says_which_hospital_missed_which_round_and_why(folder: Path) -> None:
    store, _ = begin(folder, "r1")
    missed = Reply("b", "refused", "the site has paused")
    with closing(store):
        for number in (1, 2, 3):
            answers = [Reply("a", "ok"), missed if number > 1 else Reply("b", "ok")]
            store.round("r1", number=number, phase="train", answers=answers, seconds=1.0)
    row = {"phase": "train", "site": "b", "status": "refused", "reason": "the site has paused"}
    assert status_of(folder, "r1")["missed"] == [{"round": n, **row} for n in (2, 3)]
    said = run("status", folder)
    assert "r1: b missed rounds 2-3 (train): refused, the site has paused\n" in said


def test_stop_and_renew_without_a_running_server(folder: Path) -> None:
    assert "did not run" in run("stop", folder)
    assert "valid until" in run("renew", folder)


def test_status_names_the_process_that_runs(folder: Path) -> None:
    with daemon.hold(load_home(folder).pid_file):
        found = json.loads(run("status", folder, "--json"))
    assert found["running"] is True
    assert found["answers"] is False


@pytest.mark.parametrize("command", ["start", "stop", "status", "renew"])
def test_a_folder_that_is_none_is_named(tmp_path: Path, command: str) -> None:
    with pytest.raises(RunError, match="no coordinator's"):
        run(command, tmp_path)


def finished(folder: Path, name: str, *answers: Reply) -> Path:
    """Make a run that is finished, and whose delivery got these answers."""
    store, path = begin(folder, name)
    with closing(store):
        store.round(name, number=3, phase="deliver", answers=answers, seconds=1.0)
    (path / METRICS).write_text("{}")
    (path / FLOWER).write_text(json.dumps({"seed": 0, "runs": []}))
    return path


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("refused", 1), ("silent", 1)])
def test_a_delivery_fails_where_a_hospital_has_no_model(
    folder: Path, status: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "drive", lambda run, **_: None)
    finished(folder, "r1", Reply("a", "ok"), Reply("b", status, "" if status == "ok" else "why"))
    done = CliRunner().invoke(app, ["deliver", str(folder), "r1"])
    assert done.exit_code == code
    assert done.stdout == f"a: ok\nb: {status}{': why' if code else ''}\n"
    assert ("server deliver" in done.stderr) == bool(code)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"seed": 1}', '{"seed": "x", "runs": []}', '{"seed": 1, "runs": 7}',
     '{"seed": 1, "runs": [7]}', '{"seed": 1, "runs": [{"mode": "run"}]}', "\udcff"],
    ids=ascii,
)  # fmt: skip
def test_a_record_of_flower_runs_that_cannot_be_read_is_one_message(
    folder: Path, text: str
) -> None:
    path = finished(folder, "r1") / FLOWER
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"flower.json' cannot be read") as caught:
        run("deliver", folder, "r1")
    assert "backup" in caught.value.remedy


def test_the_pages_of_a_run_that_is_not_finished_are_had_by_its_own_command(folder: Path) -> None:
    path = finished(folder, "r1")
    (path / METRICS).unlink()
    with pytest.raises(RunError, match=METRICS) as caught:
        write_pages(path)
    assert f"grandrounds server resume {folder.resolve()} r1" in caught.value.remedy
    assert "sim" not in caught.value.remedy
