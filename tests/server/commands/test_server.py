"""The `server` commands as a coordinator meets them, without a SuperLink."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from typer.main import get_command
from typer.testing import CliRunner

from common.errors import RunError
from common.running import daemon
from server.commands.server import app
from server.house.home import load_home


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
