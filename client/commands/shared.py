"""What the `site` commands share: their arguments, what these stand for, how they print."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.startup import importing

if TYPE_CHECKING:
    from client.ledger import Ledger
    from client.site import Site
    from common.plan import Plan

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print plain values instead.")]
By = Annotated[str | None, typer.Option(help="Who decides; by default this user.")]
Cohort = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which cohort of cohort.toml; by default the one approved for the study, else main.",
    ),
]


def check_spare(option: str, out: Path | None, folder: Path, cases: Path) -> None:
    """Refuse to write over the new cases, the site's patients or a file of its folder.

    Raises:
        SiteError: so, or no file can be written there.
    """
    from client.site import load_site
    from common.errors import SiteError

    if out is None:
        return
    if out.is_dir() or not out.parent.is_dir():
        raise SiteError(
            f"{option} is {str(out)!r}, where no file can be written",
            remedy="give the path of a file in a folder that is there",
        )
    target = out.resolve()
    sources = [cases, *(view.source.path for view in load_site(folder).views())]
    within = target.is_relative_to(folder.resolve()) and target.exists()
    if within or target in [path.resolve() for path in sources]:
        raise SiteError(
            f"{option} is {str(out)!r}, which holds patients or belongs to the site",
            remedy="give a new file",
        )


@contextmanager
def ledger_of(folder: Path) -> Iterator[Ledger]:
    """Open the site's ledger for as long as the block takes."""
    from client.ledger import Ledger
    from client.site import load_site

    ledger = Ledger(load_site(folder).ledger_path)
    try:
        yield ledger
    finally:
        ledger.close()


def show(values: Any, text: str, *, as_json: bool) -> None:
    """Print plain values as JSON, or a text for people."""
    typer.echo(json.dumps(values, indent=2) if as_json else text)


def console() -> Console:
    """Return where tables and paragraphs go."""
    return Console(highlight=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table of plain cells: what a coordinator sent cannot steer the terminal."""
    made = Table(*map(escape, columns), title=escape(title), title_justify="left")
    for row in rows:
        made.add_row(*(escape(_visible(str(cell))) for cell in row))
    return made


def _visible(text: str) -> str:
    """Return a text with what is no printable character written out."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def figure(value: float | None, digits: int = 4) -> str:
    """Return a number for a table; a dash for none.

    >>> figure(None), figure(0.123456)
    ('-', '0.1235')
    """
    return "-" if value is None else f"{value:.{digits}g}"


def view_of(site: Site, ledger: Ledger, plan: Plan, cohort: str | None) -> Site:
    """Return the site with the cohort chosen that was named, or that the study is approved for."""
    with importing():
        from client.desk.cohorts import site_of

    return site_of(site, ledger, plan.digest) if cohort is None else site.view(cohort)


def compiled(study: Path) -> Plan:
    """Return the plan that a study file compiles to here."""
    with importing():
        from common.plan import compile_study
        from common.study import load_study

    return compile_study(load_study(study))
