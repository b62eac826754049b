"""The `site` commands: what each prints, its exit code, and what it says to bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.commands.site import app
from client.ledger import Key, Ledger
from client.site import load_site
from common.errors import GrandroundsError
from tests.small_world import csv_text, made_site, small_plan, study_file


class Ended:
    """How a command ended; an error that the root command would print is `error`."""

    def __init__(self, *arguments: Any, stdin: str | None = None) -> None:
        result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
        self.out, self.err, self.code = result.stdout, result.stderr, result.exit_code
        self.error: GrandroundsError | None = None
        if isinstance(result.exception, GrandroundsError):
            self.error, self.code = result.exception, result.exception.exit_code
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception

    @property
    def json(self) -> Any:
        """What was printed, as plain values that any program can read."""
        return json.loads(self.out, parse_constant=pytest.fail)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made_site(tmp_path / "alpha")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return study_file(tmp_path / "study.toml")


def init_flags(folder: Path) -> list[Any]:
    data = folder.parent / "patients.csv"
    data.write_text(csv_text())
    given = {"--name": "alpha", "--data": data, "--declared": 40, "--epsilon": 5}
    return [folder, *(part for pair in given.items() for part in pair)]


def test_init_makes_a_site_and_says_what_comes_next(tmp_path: Path) -> None:
    done = Ended("init", *init_flags(tmp_path / "alpha"))
    assert done.code == 0
    assert "site approve" in done.out
    assert "node.pub" in done.out
    assert load_site(tmp_path / "alpha").policy.delta == 1 / 80  # 1 / (2 x 40)


def test_init_writes_what_keeps_the_site_up_where_asked(tmp_path: Path) -> None:
    flags = [*init_flags(tmp_path / "alpha"), "--systemd", "--container", "--relay-user", "relay"]
    done = Ended("init", *flags, "--json").json
    assert len(done["files"]) == 2
    text = (tmp_path / "alpha" / "deploy" / "grandrounds-site-alpha.service").read_text()
    assert "site start" in text.replace('"', "")
    assert "--relay-user relay" in text.replace('"', "")


@pytest.mark.parametrize("flag", ["--name", "--data", "--declared", "--epsilon"])
def test_init_names_the_flag_that_nobody_can_be_asked_for(tmp_path: Path, flag: str) -> None:
    flags = init_flags(tmp_path / "alpha")
    at = flags.index(flag)
    done = Ended("init", *flags[:at], *flags[at + 2 :])
    assert (done.code, done.error is not None) == (2, True)
    assert f"{flag} is missing" in str(done.error)
    assert not (tmp_path / "alpha").exists()


def test_init_asks_at_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import client.commands.setup

    monkeypatch.setattr(client.commands.setup, "_is_terminal", lambda: True)
    flags = init_flags(tmp_path / "alpha")
    done = Ended("init", flags[0], *flags[3:5], stdin="40\nalpha\n5\ny\n")
    assert done.code == 0
    assert load_site(tmp_path / "alpha").cohort.declared == 40
    refused = Ended("init", tmp_path / "beta", *flags[1:], stdin="n\n")
    assert refused.code == 1
    assert not (tmp_path / "beta").exists()


def test_review_says_in_plain_words_what_a_study_does_and_costs(folder: Path, study: Path) -> None:
    done = Ended("review", folder, study)
    assert done.code == 0
    for words in ("What leaves the hospital", "What the policy says", "allowed", "Budget"):
        assert words in done.out
    found = Ended("review", folder, study, "--json").json
    assert (found["allowed"], found["approved"]) == (True, False)
    assert found["left_after"]["epsilon"] == pytest.approx(5 - small_plan().epsilon)
    assert load_site(folder).plans() == {}


def test_review_of_what_the_policy_forbids_ends_with_1_and_the_remedy(
    tmp_path: Path, study: Path
) -> None:
    folder = made_site(tmp_path / "alpha", epsilon=1.0)
    done = Ended("review", folder, study)
    assert done.code == 1
    assert "budget" in done.out
    objected = [r for r in Ended("review", folder, study, "--json").json["rules"] if r["objection"]]
    assert [r["rule"] for r in objected] == ["epsilon"]
    assert objected[0]["remedy"]


def test_approve_check_status_budget_and_revoke(folder: Path, study: Path) -> None:
    approved = Ended("approve", folder, study, "--by", "Dr A. Jones", "--json").json
    assert Path(approved["record"]).is_file()
    checked = Ended("check", folder)
    assert (checked.code, "hospital's eyes only" in checked.out) == (0, True)
    assert Ended("check", folder, "--json").json[0]["patients"] == 40
    status = Ended("status", folder, "--json").json
    assert ([s["study"] for s in status["studies"]], status["running"]) == (["small"], False)
    assert "small" in Ended("status", folder).out
    assert Ended("budget", folder, "--json").json["epsilon"]["limit"] == 5.0
    assert "held on paper" in Ended("budget", folder).out
    assert Ended("revoke", folder, "small", "--json").json["digest"] == approved["digest"]
    assert load_site(folder).plans() == {}


def test_approving_prints_who_and_what_is_left(folder: Path, study: Path) -> None:
    done = Ended("approve", folder, study, "--by", "Dr A. Jones")
    assert "approved by Dr A. Jones for 1 run(s)" in done.out
    assert "left then epsilon" in done.out


def test_check_of_patients_that_do_not_fit_ends_with_1(tmp_path: Path, study: Path) -> None:
    folder = made_site(tmp_path / "few", text=csv_text(patients=12))
    done = Ended("check", folder, study)
    assert done.code == 1
    assert "12 patients are fewer" in done.out


def test_check_confirms_a_cohort_that_changed(folder: Path, study: Path, tmp_path: Path) -> None:
    Ended("approve", folder, study)
    patients = tmp_path / "alpha.csv"
    patients.write_text(patients.read_text() + "p99,99,120.0,ill\n")
    found = Ended("check", folder)
    assert (found.code, "--confirm" in found.out) == (1, True)
    assert "CHANGED" in Ended("status", folder).out
    assert Ended("check", folder, "--confirm", "--by", "x").code == 0
    assert Ended("check", folder).code == 0


def test_pause_and_resume(folder: Path) -> None:
    assert "is paused." in Ended("pause", folder, "--why", "new scanner").out
    assert "already" in Ended("pause", folder).out
    assert Ended("status", folder, "--json").json["paused"]
    assert Ended("resume", folder, "--json").json == {"paused": False, "changed": True}


def test_log_shows_the_last_entries_and_verifies_the_chain(folder: Path, study: Path) -> None:
    Ended("approve", folder, study)
    Ended("pause", folder)
    done = Ended("log", folder, "--verify", "--tail", 2, "--json").json
    assert [e["kind"] for e in done["entries"]] == ["approval", "pause"]
    assert done["verified"]["ok"]
    shown = Ended("log", folder, "--verify")
    assert (shown.code, "Verified" in shown.out, "nonce" in shown.out) == (0, True, False)


def test_what_a_coordinator_asked_for_cannot_steer_the_terminal(folder: Path) -> None:
    """A refusal is entered with what was asked, in the words of whoever asked."""
    ledger = Ledger(load_site(folder).ledger_path)
    ledger.record("refusal", {"reason": "MALFORMED", "kind": "\x1b[2J\x1b]0;owned\x07\x9b\u202e"})
    ledger.close()
    shown = Ended("log", folder).out
    assert "MALFORMED" in shown
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert "\\x1b" in shown


def test_log_finds_an_edited_entry(folder: Path, study: Path) -> None:
    import sqlite3

    Ended("approve", folder, study)
    Ended("pause", folder)
    db = sqlite3.connect(folder / "ledger.sqlite")
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {name}")
    db.execute("UPDATE entries SET body = replace(body, 'small', 'large') WHERE seq = 2")
    db.commit()
    db.close()
    done = Ended("log", folder, "--verify")
    assert done.code == 2
    assert "entry 2" in str(done.error)
    assert Ended("log", folder).code == 0


def test_backup_and_reconcile(folder: Path, tmp_path: Path) -> None:
    done = Ended("backup", folder, tmp_path / "kept.zip", "--json").json
    assert "ledger.sqlite" in done["names"]
    assert "not behind" in str(Ended("reconcile", folder).error)
    ledger = Ledger(folder / "ledger.sqlite")
    plan = small_plan()
    key = Key(plan.digest, "main", "train", 1)
    ledger.reserve(key, delta=plan.delta, events=plan.training_prices())
    ledger.close()
    (folder / "ledger.head").unlink()
    assert Ended("status", folder, "--json").json["behind"]
    assert "must be reconciled first" in Ended("budget", folder).out
    done = Ended("reconcile", folder)
    assert (done.code, "no study was approved" in done.out) == (0, True)
    assert Ended("status", folder, "--json").json["behind"] is None


def test_stop_of_a_site_that_does_not_run_says_so(folder: Path) -> None:
    assert Ended("stop", folder, "--json").json == {"site": "alpha", "stopped": False}


@pytest.mark.parametrize(
    "text", ["epsilon = [", "epsilonn = 3", None], ids=["no TOML", "unknown key", "no file"]
)
def test_a_site_whose_policy_is_broken_can_be_looked_at_paused_and_stopped(
    folder: Path, study: Path, text: str | None
) -> None:
    # Break it once: read the policy before the ledger is opened.
    Ended("approve", folder, study)
    (folder / "policy.toml").unlink()
    if text is not None:
        (folder / "policy.toml").write_text(text)
    assert Ended("pause", folder, "--json").json == {"paused": True, "changed": True}
    found = Ended("status", folder, "--json").json
    assert (found["paused"], found["epsilon"]["allowed"]) == (True, None)
    assert "policy.toml" in found["policy"]
    assert [s["study"] for s in found["studies"]] == ["small"]
    assert "no readable policy, so nothing runs" in " ".join(Ended("status", folder).out.split())
    kinds = [e["kind"] for e in Ended("log", folder, "--verify", "--json").json["entries"]]
    assert kinds[-1] == "pause"
    assert Ended("stop", folder, "--json").json == {"site": "alpha", "stopped": False}
    for command in (["budget", folder], ["approve", folder, study], ["start", folder]):
        assert "policy.toml" in str(Ended(*command).error)


def test_a_policy_that_can_be_read_is_no_news(folder: Path) -> None:
    assert Ended("status", folder, "--json").json["policy"] is None


def test_six_characters_of_a_digest_revoke_a_study_and_five_do_not(
    folder: Path, study: Path
) -> None:
    digest = Ended("approve", folder, study, "--json").json["digest"]
    assert "6 characters or more" in str(Ended("revoke", folder, digest[:5]).error)
    assert Ended("revoke", folder, digest[:6], "--json").json["digest"] == digest


def test_a_relays_user_that_no_file_would_name_is_refused(tmp_path: Path) -> None:
    done = Ended("init", *init_flags(tmp_path / "alpha"), "--relay-user", "relay")
    assert done.code == 2
    assert "--relay-user is 'relay'" in str(done.error)
    assert not (tmp_path / "alpha").exists()


@pytest.mark.parametrize("declared", [0, 10**9 + 1, 10**20])
def test_a_declared_size_that_no_hospital_has_is_refused(
    tmp_path: Path, folder: Path, declared: int
) -> None:
    flags = [declared if flag == 40 else flag for flag in init_flags(tmp_path / "beta")]
    error = str(Ended("init", *flags).error)
    assert f"--declared is {declared}" in error
    config = folder / "cohort.toml"
    config.write_text(config.read_text().replace("declared = 40", f"declared = {declared}"))
    assert f"declared is {declared}" in str(Ended("status", folder).error)


def test_start_without_a_kit_says_what_to_do(folder: Path) -> None:
    done = Ended("start", folder)
    assert done.code == 2
    assert "no kit" in str(done.error)


NO_SITE: list[list[str]] = [
    ["check", "DIR"],
    ["review", "DIR", "STUDY"],
    ["approve", "DIR", "STUDY"],
    ["revoke", "DIR", "small"],
    ["status", "DIR"],
    ["budget", "DIR"],
    ["pause", "DIR"],
    ["resume", "DIR"],
    ["log", "DIR"],
    ["backup", "DIR", "FILE"],
    ["reconcile", "DIR"],
    ["join", "DIR", "FILE"],
    ["start", "DIR"],
    ["stop", "DIR"],
    ["withdraw", "DIR", "p7"],
    ["report", "DIR"],
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", NO_SITE, ids=lambda a: a[0])
@pytest.mark.parametrize("what", ["absent", "empty", "file"])
def test_a_folder_that_is_no_site_is_one_message(
    tmp_path: Path, study: Path, arguments: list[str], what: str
) -> None:
    folder = tmp_path / what
    if what == "empty":
        folder.mkdir()
    elif what == "file":
        folder.write_text("")
    places = {"DIR": folder, "STUDY": study, "FILE": tmp_path / "new.zip"}
    done = Ended(*(places.get(a, a) for a in arguments))
    assert done.error is not None
    assert str(folder) in done.error.message
    assert done.error.remedy
    assert done.code != 0
    assert not (tmp_path / "new.zip").exists()
    assert list(folder.iterdir()) == [] if what == "empty" else True


@pytest.mark.parametrize("command", ["check", "review", "approve"])
@pytest.mark.parametrize(
    ("text", "named"),
    [(None, "does not exist"), ("[", "not TOML"), ("name = 7", "name"), ("x = 1", "unknown key")],
)
def test_a_study_that_is_none_is_one_message(
    folder: Path, tmp_path: Path, command: str, text: str | None, named: str
) -> None:
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    done = Ended(command, folder, path)
    assert done.error is not None
    assert named in done.error.message
    assert str(path) in done.error.message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["log", "DIR", "--tail", "0"], "--tail"),
        (["approve", "DIR", "STUDY", "--runs", "0"], "--runs"),
        (["review", "DIR", "STUDY", "--runs", "x"], "--runs"),
        (["init", "DIR", "--declared", "many"], "--declared"),
        (["approve", "DIR"], "STUDY"),
        (["start", "DIR", "--tcp", "x"], "--tcp"),
    ],
    ids=str,
)
def test_a_flag_that_is_no_value_is_named(
    folder: Path, study: Path, arguments: list[str], named: str
) -> None:
    places = {"DIR": folder, "STUDY": study}
    done = Ended(*(places.get(a, a) for a in arguments))
    assert done.code == 2
    assert named in done.err


def test_check_without_any_study_says_what_to_give(folder: Path) -> None:
    assert "study.toml" in getattr(Ended("check", folder).error, "remedy", "")


def test_every_command_has_help_and_an_example() -> None:
    from typer.main import get_command

    group = get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert command.help, name
        assert f"grandrounds site {name}" in (command.epilog or ""), name
