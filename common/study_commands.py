"""The `study` commands. Heavy imports wait for the command, so that help is quick."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from common.errors import StudyError
from common.schema import dump_toml
from common.startup import importing

if TYPE_CHECKING:
    from common.plan import Plan
    from common.review import Review
    from common.study import Study
    from common.suggestion import Suggestion

app = typer.Typer(
    help="Check a study: what it computes, releases and costs; suggest sampling, steps and clip.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


_StudyName = Annotated[
    str, typer.Argument(help="A study file, or the name of a study that comes with grandrounds.")
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print plain values instead.")]


@app.callback()
def _group() -> None:
    pass


@app.command(epilog="Example: grandrounds study check heart")
def check(study: _StudyName, as_json: _AsJson = False) -> None:
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


@app.command(epilog="Example: grandrounds study suggest heart --declared 300,290,120,200")
def suggest(
    study: _StudyName,
    declared: Annotated[
        str | None,
        typer.Option(
            "--declared",
            metavar="N,N,...",
            help="Public, rounded count of patients of each hospital; of a study whose simulation "
            "names hospitals, theirs where this is left out.",
        ),
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """Suggest sampling rate, steps and clip from public figures alone; no patient is read."""
    with importing():
        from common.embedded import find_study
        from common.study import load_study
        from common.suggestion import suggest as suggestion_for

    loaded = load_study(find_study(study))
    found = suggestion_for(loaded, declared=_sizes(declared, loaded))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print_suggestion(found)


def _sizes(text: str | None, study: Study) -> list[int]:
    """Return the declared sizes that the option, or else the simulation's hospitals, give."""
    if text is None:
        sites = study.simulation.sites if study.simulation else {}
        if not sites:
            raise StudyError(
                f"study {study.name!r} names no hospitals with declared sizes",
                remedy="give --declared, such as --declared 300,290,120,200",
            )
        return [site.declared for site in sites.values()]
    parts = [part.strip() for part in text.split(",")]
    bad = [p for p in parts if not (p.isascii() and p.isdecimal() and 0 < len(p) <= 9)]
    if bad:
        raise StudyError(
            f"--declared has {bad[0]!r} in it",
            remedy="give whole numbers with commas between them: --declared 300,290,120,200",
        )
    return [int(part) for part in parts]


def _print_suggestion(found: Suggestion) -> None:
    console = Console(highlight=False)
    console.print(
        f"\n{len(found.declared)} hospitals of {min(found.declared)} to {max(found.declared)} "
        f"declared patients, epsilon {found.epsilon:.4g}, delta {found.delta:g}, "
        f"{found.parameters} weights that are trained\n"
    )
    table = Table(
        title="Noise on the median hospital's mean gradient, in clips",
        caption="length: over all weights; signal: to noise, of the whole run, at best 1; "
        "gradients: of each record, in the whole run",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    headings = ("", "rate", "rounds x steps", "sigma", "a weight", "length", "signal", "gradients")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    rows = [("as it is", found.own), ("suggested", found.best), *(("", c) for c in found.others)]
    for name, c in rows:
        noise = (f"{c.noise:.4f}", f"{c.noise_length:.2f}", f"{c.signal_to_noise:.2f}")
        steps = f"{c.rounds} x {c.local_steps}"
        table.add_row(name, f"{c.sampling_rate:g}", steps, f"{c.sigma:.4g}", *noise,
                      f"{c.gradients:g}")  # fmt: skip
    console.print(table)
    console.print(dump_toml(found.to_json()["suggested"]), markup=False)


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
