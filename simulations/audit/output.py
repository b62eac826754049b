"""What an audit leaves behind: a folder of its own, and its lines on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.auditing.outcome import Audit
from common.errors import RunError
from common.files import write_atomic
from common.report.audit_page import audit_html, audit_verdict


def audit_folder(out: Path | None, name: str) -> Path:
    """Return the audit's folder, not yet made: `out`, or one named after audit and time.

    Raises:
        RunError: `out` is there already and holds something.
    """
    if out is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        ends = ("" if i == 1 else f"-{i}" for i in count(1))
        return next(p for e in ends if not (p := Path("audit") / f"{name}-{stamp}{e}").exists())
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(
            f"--out is {str(out)!r}, which is not an empty folder",
            remedy="name a folder that is not there yet",
        )
    return out


def conclude(audit: Audit, values: Mapping[str, Any], folder: Path, *, as_json: bool) -> None:
    """Write audit.json and report.html into the folder, and print the outcome.

    Args:
        audit: What was found.
        values: Of the page: the audit's own and what it was about.
        folder: As `audit_folder` named it.
        as_json: Whether to print the contract of `--json` in place of words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=1, allow_nan=False)
    write_atomic(folder / "audit.json", text + "\n")
    write_atomic(folder / "report.html", audit_html(values))
    if as_json:
        told = {**audit.to_json(), "folder": str(folder)}
        typer.echo(json.dumps(told, indent=2, allow_nan=False))
        return
    width = None if sys.stdout.isatty() else 110
    _print_audit(Console(highlight=False, width=width), values, folder)


def _print_audit(console: Console, values: Mapping[str, Any], folder: Path) -> None:
    """Print the verdict, every group of tests, and in full those that failed."""
    console.print(f"[bold]{escape(audit_verdict(values))}[/]")
    if values["kind"] != "ledger":
        measured = values["parametric_epsilon"]
        console.print(
            f"epsilon as measured: {_figure(measured['low'])} to {_figure(measured['high'])} (95%)"
        )
    bounds = [v for v in values["lower_bound_epsilon"].values() if v is not None]
    if bounds:
        console.print(f"largest lower bound of {len(bounds)}: {_figure(max(bounds))}")
    console.print(_groups(values["tests"]))
    for test in values["tests"]:
        if not test["passed"]:
            console.print(f"[bold red]failed[/] {escape(test['name'])}: {escape(test['detail'])}")
    for remark in values.get("remarks") or []:
        console.print(escape(remark))
    console.print(f"report: {escape(str(folder / 'report.html'))}")


def _groups(tests: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("tests")
    table.add_column("passed", justify="right")
    found: dict[str, list[bool]] = {}
    for test in tests:
        found.setdefault(test["name"].split(":")[0], []).append(test["passed"])
    for group, passed in found.items():
        table.add_row(escape(group), f"{sum(passed)} of {len(passed)}")
    return table


def _figure(value: float | None) -> str:
    return "infinity or unknown" if value is None else f"{value:.3g}"
