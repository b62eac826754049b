"""The `meta` commands. Heavy imports wait for the command, so that help is quick."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.errors import DataError
from common.startup import importing

app = typer.Typer(
    help="Meta-analysis: pool the estimates of studies, or of a run's hospitals.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_SHOWN = ("answer", "groups", "regression", "prediction", "trust")


@app.callback()
def _group() -> None:
    pass


@app.command(epilog="Example: grandrounds meta analyse dat.bcg.csv --measure RR --on ablat")
def analyse(
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="One row a study.")],
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="OR|RR|RD|SMD|MD|AUC|OE|GEN",
            help="What to pool; found from the columns where left out. GEN: yi as it is.",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="REML|DL|PM|ML|HE|FE", help="How the variance between studies is estimated."
        ),
    ] = "REML",
    test: Annotated[
        str,
        typer.Option(
            metavar="z|knha|adhoc",
            help="Intervals: normal; Hartung and Knapp's; theirs, never narrower than normal.",
        ),
    ] = "z",
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Pool the groups of a column apart.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(metavar="COLUMN,...", help="Regress the effects on columns.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="ROLE=COLUMN,...", help="What columns of other names are: ai=events."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the networks that --on is given to as well.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write pictures and meta.html there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain values instead.")] = False,
) -> None:
    """Pool a table of studies: mean, heterogeneity, moderators, bias, influence."""
    with importing():
        from common.cohort.table import read_csv
        from common.meta import analysis
        from common.meta.tables import read_effects

    if not table.is_file():
        raise DataError(f"there is no file {str(table)!r}", remedy="check the path of the table")
    name = None if measure is None else measure.upper()
    effects = read_effects(read_csv(table, what="table"), measure=name, columns=_pairs(columns))
    values = analysis.analyse(
        effects, method=method.upper(), test=test.lower(), by=by, on=_names(on), seed=seed
    )
    if plot is not None:
        options = {"--measure": effects.measure, "--method": method, "--test": test, "--by": by,
                   "--on": on, "--columns": columns, "--seed": seed, "--plot": plot}  # fmt: skip
        given = [f"{key} {shlex.quote(str(x))}" for key, x in options.items() if x is not None]
        command = f"grandrounds meta analyse {shlex.quote(str(table))} {' '.join(given)}"
        write_pages(values, plot, title=table.stem, command=command)
    if as_json:
        typer.echo(json.dumps(values, indent=2, allow_nan=False))
    else:
        show(values, plot)


def write_pages(values: dict[str, Any], folder: Path, *, title: str, command: str) -> None:
    """Write every picture as SVG, and all of them on the page `meta.html`, into a folder."""
    with importing():
        from common.files import write_atomic
        from common.report.meta_page import draw, meta_html

    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(values)
    for name, svg in drawn.items():
        write_atomic(folder / f"{name}.svg", svg)
    page = meta_html(values, title=title, command=command, drawn=drawn)
    write_atomic(folder / "meta.html", page)


def show(values: dict[str, Any], folder: Path | None) -> None:
    """Print the tables of a meta-analysis, and where its page is."""
    from common.report.meta_page import verdict
    from common.report.meta_tables import tables

    console = Console(highlight=False)
    console.print(f"[bold]{escape(verdict(values))}[/]")
    for found in tables(values):
        if found["name"] not in _SHOWN:
            continue
        table = Table(box=SIMPLE_HEAD, title=escape(found["title"]), title_justify="left")
        for i, head in enumerate(found["heads"]):
            table.add_column(escape(head), justify="left" if i == 0 else "right")
        for row in found["rows"]:
            table.add_row(*map(escape, row))
        console.print(table)
    said = ((values.get("regression") or {}).get("prediction") or {}).get("verdict")
    for note in [*([said] if said else []), *values["notes"]]:
        console.print(escape(note))
    if folder is not None:
        console.print(f"Page and pictures: {escape(str(folder / 'meta.html'))}")


def _names(text: str | None) -> list[str]:
    return [] if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _pairs(text: str | None) -> dict[str, str]:
    pairs = dict(part.partition("=")[::2] for part in _names(text))
    for role, column in pairs.items():
        if not column:
            raise DataError(f"--columns has {role!r} without a column", remedy="write ai=events")
    return {role.strip(): column.strip() for role, column in pairs.items()}
