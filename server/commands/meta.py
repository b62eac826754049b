"""The `meta run` command, which reads a run folder; the others are in `common.meta.commands`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from common.meta.commands import app as app
from common.startup import importing


@app.command(name="run", epilog="Example: grandrounds meta run runs/heart-20260101-120000")
def pool_run(
    run_dir: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_DIR",
            help="A run folder, as `sim run`, `sim loho` or `server run` leaves it.",
        ),
    ],
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="AUC|OE|OR|RR|RD|MD",
            help="What to pool: AUC [default] or O/E of a model, or a measure of a table of "
            "treatment by outcome [default: the study's].",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="REML|DL|PM|ML|HE|FE", help="How the variance between hospitals is estimated."
        ),
    ] = "REML",
    test: Annotated[
        str,
        typer.Option(
            metavar="z|knha|adhoc",
            help="Intervals: normal; Hartung and Knapp's; theirs, never narrower than normal.",
        ),
    ] = "z",
    job: Annotated[
        str | None,
        typer.Option(help="Which job [default: the main arm's, under the first seed]."),
    ] = None,
    arm: Annotated[
        str | None, typer.Option(help="Of `sim loho`: whose model [default: the main arm's].")
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(min=0, help="Of `sim loho`: labelled patients it had met [default: 0]."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write pictures and meta.html there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain values instead.")] = False,
) -> None:
    """Pool what a run's hospitals released; the noise is in each hospital's variance."""
    with importing():
        from common.meta.commands import write_pages
        from common.report.effect_page import width_line
        from server.pooling import from_run

    values = from_run(
        run_dir,
        measure=measure,
        method=method.upper(),
        test=test.lower(),
        job=job,
        arm=arm,
        shots=shots,
    )
    if plot is not None:
        options = {"measure": measure, "method": method, "test": test, "job": job, "arm": arm,
                   "shots": shots, "plot": plot}  # fmt: skip
        words = [f"--{k} {shlex.quote(str(v))}" for k, v in options.items() if v is not None]
        command = f"grandrounds meta run {shlex.quote(str(run_dir))} {' '.join(words)}"
        told = (
            width_line(values),
            "Of a hospital's interval the thick part is what its patients alone would make.",
        )
        page = {**values, "notes": [*told, *values["notes"]]}
        write_pages(page, plot, title=values["title"], command=command)
    if as_json:
        typer.echo(json.dumps(values, indent=2, allow_nan=False))
        return
    _show(values, plot)


def _show(values: dict[str, Any], folder: Path | None) -> None:
    import sys

    from rich.console import Console

    from server.effect_tables import print_hospitals, print_pooled

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    print_hospitals(console, values, title=f"{values['title']}: {values['measure_name']}")
    print_pooled(console, values)
    if folder is not None:
        console.print(f"page and pictures: {folder / 'meta.html'}", markup=False)
