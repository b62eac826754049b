"""What is shown of new hospitals on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from common.report.fewshot_sources import source_tables
from common.report.fewshot_tables import title_of
from common.report.fewshot_values import (
    FIGURES,
    epsilon_of,
    figures_of,
    panels_of,
    shots_of,
    with_width,
)


def print_new_hospitals(console: Console, found: Mapping[str, Any]) -> None:
    """Print what fits a terminal; the report has the spread and what a method gains besides."""
    for name, shots in panels_of(found):
        table = Table(
            title=title_of(found, name),
            caption="columns: labelled patients a class; ±: 95% interval of the mean over episodes",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        table.add_column("method", no_wrap=True)
        table.add_column("epsilon", justify="right", no_wrap=True)
        of_two = found["measure"] == "auc"  # of more classes the accuracy says it all
        named = figures_of(shots) if of_two else ["accuracy"]
        figures = [(k, figure) for k in shots_of(found) for figure in named]
        for k, figure in figures:
            table.add_column(f"{k}\n{FIGURES[figure]}", justify="right", no_wrap=True)
        for method in found["methods"]:
            rows = {k: shots[k][method] for k in shots_of(found)}
            cells = [with_width(rows[k], figure).replace("0.", ".") for k, figure in figures]
            table.add_row(method, epsilon_of(found["methods"][method]), *cells)
        console.print(table)
    _print_sources(console, found)


def _print_sources(console: Console, found: Mapping[str, Any]) -> None:
    for one in source_tables(found):
        table = Table(title=one["title"], box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("source", no_wrap=True)
        for head in one["heads"]:
            table.add_column(head.lower(), justify="right")
        for source, cells in one["rows"]:
            table.add_row(source, *cells)
        console.print(table)
        console.print(one["sentence"])
