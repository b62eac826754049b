"""The `site` commands about patients and models: withdraw, predict, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.commands.shared import AsJson, Folder, check_spare, ledger_of
from common.startup import importing

if TYPE_CHECKING:
    from client.patients.predictor import Predictions

_SHOWN = 20  # rows on a screen; the file has all


def register(app: typer.Typer) -> None:
    """Mount `withdraw`, `predict` and `report` on the `site` group."""
    app.command(epilog="Example: grandrounds site withdraw sites/cleveland 10423")(withdraw)
    app.command(epilog="Example: grandrounds site predict sites/cleveland new.csv --as adapted")(
        predict
    )
    app.command(epilog="Example: grandrounds site report sites/cleveland")(report)


def withdraw(
    folder: Folder,
    patient: Annotated[
        str,
        typer.Argument(
            metavar="PATIENT_ID",
            help="The patient's id in the cohort's file; record:N where the file has no ids.",
        ),
    ],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also where no cohort holds the id now.")
    ] = False,
    cohort: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The cohort in which record:N is counted."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw a patient from every later round of any cohort, and list the runs before that."""
    with importing():
        from client.desk.administration import perform

    found = perform(folder, "withdraw", patient=patient, anyway=anyway, cohort=cohort)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print_withdrawal(found)


def _print_withdrawal(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    when = escape(found["at"][:19].replace("T", " "))
    if found["already"]:
        console.print(f"This patient was withdrawn before, on {when}.")
    else:
        console.print("[bold]Withdrawn.[/] The patient is in no round from now on.")
    if found["runs"]:
        table = Table("study", "run", "as", "rounds", "first", "last", title="May have used them")
        for use in found["runs"]:
            name = use["study"] or use["digest"][:12]
            times = [use[key][:19].replace("T", " ") for key in ("first", "last")]
            table.add_row(
                *map(escape, (name, use["run"], use["part"], _ranges(use["rounds"]), *times))
            )
        console.print(table)
    else:
        console.print("No run had used the patient.")
    for note in found["notes"]:
        console.print(escape(note))


def _ranges(numbers: list[int] | tuple[int, ...]) -> str:
    """Return whole numbers in order with runs of them drawn together.

    >>> _ranges([1, 2, 3, 5])
    '1-3, 5'
    """
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(str(g[0]) if len(g) == 1 else f"{g[0]}-{g[-1]}" for g in groups)


def predict(
    folder: Folder,
    cases: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="New cases: a table, an npz archive, or an index of images. No outcome needed.",
        ),
    ],
    run: Annotated[str | None, typer.Option(help="Whose model; the newest by default.")] = None,
    form: Annotated[
        Literal["received", "adapted"],
        typer.Option("--as", help="As received, or adapted to the hospital's own patients."),
    ] = "received",
    out: Annotated[
        Path | None, typer.Option(help="Where to write the probabilities (CSV).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict new cases with the finished model. For research; not for clinical use."""
    with importing():
        from client.patients.predictor import predict_cases
        from common.files import write_atomic

    check_spare("--out", out, folder, cases)
    with ledger_of(folder) as ledger:
        found = predict_cases(folder, ledger, cases, run=run, form=form)
    if out is not None:
        write_atomic(out, found.to_csv(), mode=0o600)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print_predictions(found, out)


def _print_predictions(found: Predictions, out: Path | None) -> None:
    console = Console(highlight=False)
    for sentence in found.about:
        console.print(escape(sentence))
    for note in found.notes:
        console.print(f"[dim]{escape(note)}[/]")
    rows = found.rows()
    columns = [name for name in rows[0] if name not in ("model", "use")]
    table = Table(*map(escape, columns))
    for row in rows[:_SHOWN]:
        table.add_row(*(escape(_cell(row[name])) for name in columns))
    console.print(table)
    if len(rows) > _SHOWN and out is None:
        console.print(f"{len(rows) - _SHOWN} more; write all of them with --out FILE")
    if out is not None:
        console.print(f"{len(rows)} records written to {escape(str(out))}")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def report(folder: Folder, as_json: AsJson = False) -> None:
    """Write DIR/report.html: the budget, the studies, and exact results that do not leave."""
    with importing():
        from client.desk.site_report import site_values, write_report

    with ledger_of(folder) as ledger:
        values = site_values(folder, ledger)
    path = write_report(folder, values)
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"Written: {escape(str(path))}")
        console.print("It holds exact figures and is not to leave the hospital.")
