"""What the effects of hospitals look like on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.report.effect_page import exact_line, interval, site_row, width_line
from common.report.meta_tables import answer
from common.report.values import show

_ERRORS = "standard errors:\npatients, noise"

_WEIGHT = "weight"


def print_effect(console: Console, metrics: Mapping[str, Any]) -> None:
    """Print a run of an effect: the hospitals, the pooled effect, and the promise."""
    title = f"{metrics['title']}: {metrics['measure_name']}"
    console.print(_hospitals(title, map(site_row, metrics["sites"])))
    if metrics["pooled"]:
        print_pooled(console, metrics["pooled"])
    else:
        console.print(escape(f"not pooled: {metrics['why']}"))
    if exact_line(metrics):
        console.print(escape(exact_line(metrics)))
    console.print(f"privacy: {metrics['privacy']['statement']}")


def print_pooled(console: Console, pooled: Mapping[str, Any]) -> None:
    """Print the pooled effect, what makes it as wide as it is, and the notes."""
    table = Table(title=f"Pooled: {pooled['model']}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("value", justify="right", no_wrap=True)
    for name, value in answer(pooled):
        table.add_row(name, escape(value))
    console.print(table)
    console.print(width_line(pooled))
    for note in pooled["notes"]:
        console.print(f"note: {escape(note)}")


def print_hospitals(console: Console, pooled: Mapping[str, Any], *, title: str) -> None:
    """Print the effects of a run's hospitals that were pooled, and who was left out."""
    rows = [
        [
            row["name"],
            f"{row['weight']:.1%}",
            interval(row),
            f"{show(row['sampling_se'], 2)}, {show(row['noise_se'], 2)}",
        ]
        for row in pooled["studies"]
    ]
    rows += [[row["name"], "-", "left out", ""] for row in pooled["left_out"]]
    console.print(_table(title, ("hospital", "weight", "effect (95%)", _ERRORS), rows))


def _hospitals(title: str, rows: Iterable[Sequence[str]]) -> Table:
    heads = ("hospital", "size", "treated | control", "effect (95%)", _ERRORS, "")
    return _table(title, heads, rows)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number and head else "left", no_wrap=bool(head))
    for row in rows:
        table.add_row(*map(escape, row))
    return table
