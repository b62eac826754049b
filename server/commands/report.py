"""The `report` command. Heavy imports wait for the command, so that help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.startup import importing

report = typer.Typer(pretty_exceptions_enable=False)


@report.command(epilog="Example: grandrounds report runs/heart-20260101-120000")
def rebuild(
    run_dir: Annotated[Path, typer.Argument(help="A run folder, as `sim run` leaves it.")],
) -> None:
    """Rebuild report.html and model_card.md from a run folder."""
    with importing():
        from server.report import write_pages

    typer.echo(str(write_pages(run_dir)))
