"""The privacy officer's page, as a reader would follow it: every command does what it says."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.command_line import run_command
from tests.documents import ROOT, blocks

PAGE = ROOT / "docs" / "privacy.md"


@pytest.mark.slow
def test_the_officers_commands_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRANDROUNDS_DATA", raising=False)
    lines = "".join(blocks(PAGE.read_text(encoding="utf-8"), "bash")).splitlines()
    assert len(lines) == 8
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "grandrounds"
        ended = run_command(monkeypatch, capsys, *words)
        assert ended.code == 0, f"{line}: {ended.err}"
    made = sorted(path.parent.name for path in (tmp_path / "officer").glob("*/audit.json"))
    assert len(made) == 6
    for name in made:
        folder = tmp_path / "officer" / name
        assert (folder / "report.html").stat().st_size > 10_000
        verdict = json.loads((folder / "audit.json").read_text()).get("verdict", "not refuted")
        assert verdict == "not refuted"
