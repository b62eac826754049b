"""The `study` commands. Heavy imports wait for the command, so that help is quick."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from common.startup import importing

if TYPE_CHECKING:
    from common.plan import Plan
    from common.review import Review

app = typer.Typer(
    help="Check a study: what it computes, releases and costs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _group() -> None:
    pass


@app.command(epilog="Example: grandrounds study check heart")
def check(
    study: Annotated[
        str,
        typer.Argument(help="A study file, or the name of a study that comes with grandrounds."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print plain values instead.")] = False,
) -> None:
    """Say in plain words what each hospital would compute, release, and spend."""
    with importing():
        from common.embedded import find_study
        from common.models import build
        from common.plan import compile_study
        from common.privacy.engine import check_compatible
        from common.review import review
        from common.study import load_study

    path = find_study(study)
    plan = compile_study(load_study(path))
    check_compatible(build(plan.study, folder=path.parent))
    found = review(plan)
    if as_json:
        typer.echo(json.dumps(found.to_json(plan), indent=2))
    else:
        _print(plan, found)


def _print(plan: Plan, found: Review) -> None:
    console = Console(highlight=False)
    title = escape(plan.study.title or plan.study.name)
    console.print(f"\n[bold]{title}[/]  [dim]digest {plan.digest[:16]}[/]\n")
    sections = (
        ("Each hospital", found.computes),
        ("What leaves it", found.leaves),
        ("What stays", found.stays),
        ("What a patient spends", found.spends),
    )
    for heading, sentences in sections:
        console.print(f"[bold]{heading}[/]")
        for sentence in sentences:
            console.print(Padding(escape(sentence), (0, 0, 0, 4)))
        console.print()
    if found.by_round:
        table = Table("round", "epsilon spent", title="A training patient, round by round")
        for number, epsilon in _some(found.by_round):
            table.add_row(str(number), f"{epsilon:.4f}")
        console.print(table)


def _some(rows: tuple[tuple[int, float], ...], most: int = 24) -> list[tuple[int, float]]:
    """Return all rows, or evenly chosen ones with the last where there are many."""
    step = -(-len(rows) // most)
    return [row for i, row in enumerate(rows) if (len(rows) - 1 - i) % step == 0]
