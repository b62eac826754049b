"""Running the command line in this process, as a user meets it."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import pytest

from common.cli import main


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: Any
) -> Ended:
    """Run `grandrounds` with these arguments and return exit code, standard output and error."""
    monkeypatch.setattr(sys, "argv", ["grandrounds", *map(str, arguments)])
    code: Any = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return Ended(code, captured.out, captured.err)
