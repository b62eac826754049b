"""`audit attack`: its files, what it prints, and what it refuses."""

import json

import pytest

from common.report.attack_page import attack_html
from simulations.audit.attacks import study as attacks
from tests.command_line import run_command
from tests.page_reader import Reader


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRANDROUNDS_DATA", raising=False)

    def run(*arguments):
        return run_command(monkeypatch, capsys, "audit", "attack", *arguments)

    return run


@pytest.fixture
def few(monkeypatch):
    """Attack as briefly as can be."""
    monkeypatch.setattr(attacks, "_SHOWN", 1)
    whole = attacks.attack_study
    monkeypatch.setattr(
        attacks, "attack_study", lambda *a, **k: whole(*a, **k, targets=2, shadows=4)
    )


@pytest.mark.parametrize("kind", ["inversion", "membership"])
def test_an_attack_leaves_figures_and_a_page(cli, few, tmp_path, kind):
    ended = cli("breast_cancer", "--kind", kind, "--json", "--out", "found")
    assert ended.code == 0, ended.err
    printed = json.loads(ended.out)
    values = json.loads((tmp_path / "found" / "audit.json").read_text())
    assert printed["arms"] == values["arms"]
    assert [arm["private"] for arm in values["arms"]] == [False, True]
    page = (tmp_path / "found" / "report.html").read_text()
    read = Reader(page)
    assert not read.open
    assert not {"script", "link"} & set(read.tags)
    assert len(read.ids) == len(set(read.ids))
    assert page == attack_html(values)


def test_patients_are_marked_kept_from_others_and_not_printed(cli, few, tmp_path):
    ended = cli("breast_cancer", "--kind", "inversion", "--json", "--out", "found")
    assert "patients" not in json.loads(ended.out)
    for name in ("audit.json", "report.html"):
        assert (tmp_path / "found" / name).stat().st_mode & 0o077 == 0
    page = (tmp_path / "found" / "report.html").read_text()
    assert "This page shows patients" in page
    assert "must not leave" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("breast_cancer", "--kind", "magic"), "--kind is 'magic'"),
        (("nobody", "--kind", "inversion"), "study 'nobody' is neither"),
        (("heart", "--kind", "inversion"), "no data folder is given"),
        (("breast_cancer", "--kind", "inversion", "--out", "full"), "not an empty folder"),
    ],
)
def test_a_mistake_is_one_message(cli, tmp_path, arguments, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("")
    ended = cli(*arguments)
    assert ended.code != 0
    assert message in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
