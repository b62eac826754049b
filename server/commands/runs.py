"""The `server` commands of a run: start it, go on with it, hand its model to the hospitals."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.startup import importing

if TYPE_CHECKING:
    from rich.console import Console

    from server.deployment import Run

_INTERRUPTED = 130

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the metrics alone, as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the coordinator's group."""
    example = "Example: grandrounds server"
    app.command(epilog=f"{example} run coordinator simulations/studies/heart.toml")(run)
    app.command(epilog=f"{example} resume coordinator RUN")(resume)
    app.command(epilog=f"{example} deliver coordinator RUN")(deliver)


def run(
    folder: Folder,
    study: Annotated[Path, typer.Argument(help="The study file (TOML).")],
    seed: Annotated[int, typer.Option(min=0, help="Of the initial weights.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run a study over the enrolled hospitals that approved it, and write a report."""
    with importing():
        from server.deployment import new_run
        from server.house.home import load_home
        from server.house.superlink import require

    home = load_home(folder)
    require(home)  # or a run folder would be left that nothing ever ran in
    _carry(new_run(home, study, seed=seed), as_json)


def resume(folder: Folder, name: RunName, as_json: AsJson = False) -> None:
    """Go on with a run that stopped, or watch one that goes on."""
    with importing():
        from server.deployment import find_run
        from server.house.home import load_home

    _carry(find_run(load_home(folder), name), as_json)


def deliver(folder: Folder, name: RunName, as_json: AsJson = False) -> None:
    """Send a finished run's model, with its card, to the hospitals."""
    with importing():
        from server.deployment import deliveries, drive, find_run
        from server.house.home import load_home
        from server.store import METRICS

    found = find_run(load_home(folder), name)
    if not (found.folder / METRICS).is_file():
        from common.errors import RunError

        raise RunError(
            f"run {name!r} is not finished",
            remedy=f"finish it: grandrounds server resume {folder} {name}",
        )
    messages = _messages()
    drive(found, mode="deliver", say=messages.print)
    rows = deliveries(found)
    if as_json:
        typer.echo(json.dumps({"run": name, "deliveries": rows}, indent=2))
    else:
        for row in rows:
            reason = f": {row['reason']}" if row["reason"] else ""
            typer.echo(f"{row['site']}: {row['status']}{reason}")
    if any(row["status"] != "ok" for row in rows):
        messages.print(
            f"for those that missed it: grandrounds server deliver {folder} {name}", markup=False
        )
        raise typer.Exit(1)


def _carry(run: Run, as_json: bool) -> None:
    from rich.markup import escape

    from server.deployment import drive, finish, plan_of
    from server.progress import live_progress

    started, messages = time.monotonic(), _messages()

    def say(line: str) -> None:
        messages.print(escape(line))

    say(f"run folder: {run.folder}")
    advice = f"grandrounds server resume {run.home.folder} {run.name}"
    try:
        with live_progress(messages, run.folder, rounds=plan_of(run).study.rounds.count):
            drive(run, mode="run", say=say)
    except KeyboardInterrupt:
        say(f"the run goes on without you; watch it with: {advice}")
        raise typer.Exit(_INTERRUPTED) from None
    except BaseException:
        say(f"once that is mended, go on with: {advice}")
        raise
    metrics = finish(run, seconds=time.monotonic() - started)
    if as_json:
        typer.echo(json.dumps(metrics, indent=2, allow_nan=False))
        return
    _show(metrics)
    typer.echo(f"report: {run.folder / 'report.html'}")


def _messages() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def _show(metrics: dict[str, Any]) -> None:
    """Print the hospitals with what they released, who missed what, and the promise."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from server.effect_tables import print_effect
    from server.effects import EFFECT

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    if metrics.get("kind") == EFFECT:
        print_effect(console, metrics)
        for line in told_missed(metrics["missed"]):
            console.print(escape(line))
        return
    table = Table(title=metrics["title"], box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("hospital", "size", "status", "AUC released"):
        table.add_column(heading)
    for site in metrics["sites"]:
        table.add_row(
            site["name"], str(site["declared"] or "-"), site["status"], _auc(site["private"])
        )
    console.print(table)
    for line in told_missed(metrics["missed"]):
        console.print(escape(line))
    pooled = metrics["pooled_private"]
    if pooled is not None and pooled["auc"] is not None:
        console.print(f"released AUC, pooled over hospitals: {pooled['auc']:.2f}")
    console.print(f"privacy: {metrics['privacy']['statement']}")
    for remark in metrics["remarks"]:
        console.print(f"note: {remark}")


def told_missed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return which hospital missed which round and why: a line for each reason.

    >>> row = {"site": "a", "phase": "train", "status": "refused", "reason": "paused"}
    >>> told_missed([{**row, "round": number} for number in (2, 3, 4, 9)])
    ['a missed rounds 2-4, 9 (train): refused, paused']
    """
    found: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("site", "phase", "status", "reason"))
        found.setdefault(key, []).append(row["round"])
    return [
        f"{site} missed round{'s' if len(numbers) > 1 else ''} {_ranges(sorted(numbers))} "
        f"({phase}): {status}" + (f", {reason}" if reason else "")
        for (site, phase, status, reason), numbers in found.items()
    ]


def _ranges(numbers: Sequence[int]) -> str:
    """Return whole numbers in ascending order, with those that follow each other drawn together."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def _auc(private: dict[str, Any] | None) -> str:
    if private is None:
        return "-"
    if private["auc"] is None:
        return "too noisy"
    return f"{private['auc']:.2f} ({private['auc_low']:.2f} to {private['auc_high']:.2f})"
