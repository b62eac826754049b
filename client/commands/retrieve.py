"""`site retrieve`: the hospital's own cases that are most like a new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from client.commands.shared import AsJson, Folder, check_spare, console, figure, ledger_of, table
from common.startup import importing

if TYPE_CHECKING:
    from client.patients.neighbours import Retrieved

_SHOWN = 5  # new cases on a screen; the file has all


def register(app: typer.Typer) -> None:
    """Mount `retrieve` on the `site` group."""
    app.command(epilog="Example: grandrounds site retrieve sites/cleveland scan.png --top 10")(
        retrieve
    )


def retrieve(
    folder: Folder,
    cases: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE",
            help="One image (PNG, JPEG, DICOM), or several new cases as `site predict` takes them.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many cases for each new one.")] = 10,
    run: Annotated[str | None, typer.Option(help="Whose model; the newest by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the table (CSV).")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Where to write a page with the images (HTML).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the hospital's own cases nearest to a new one. They are not to leave the hospital."""
    with importing():
        from client.patients.retrieval import page_of, retrieve_cases
        from common.files import write_atomic

    check_spare("--out", out, folder, cases)
    check_spare("--pictures", pictures, folder, cases)
    with ledger_of(folder) as ledger:
        found = retrieve_cases(folder, ledger, cases, run=run, top=top)
        page = None if pictures is None else page_of(found, folder, ledger, cases)
    if out is not None:
        write_atomic(out, found.to_csv(), mode=0o600)
    if pictures is not None and page is not None:
        write_atomic(pictures, page, mode=0o600)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print(found, [path for path in (out, pictures) if path is not None])


def _print(found: Retrieved, written: list[Path]) -> None:
    screen = console()
    for sentence in (*found.about, *found.notes):
        screen.print(escape(sentence))
    queries = found.queries()
    for query in queries[:_SHOWN]:
        _print_query(query, found.shares)
    if len(queries) > _SHOWN and not written:
        screen.print(f"{len(queries) - _SHOWN} more cases; write all of them with --out FILE")
    for path in written:
        screen.print(f"Written: {escape(str(path))}. It is not to leave the hospital.")


def _print_query(query: dict[str, Any], shares: dict[str, float]) -> None:
    name = f"Case {query['record']}" + (f", {query['patient']}" if "patient" in query else "")
    rows = query["neighbours"]
    if not rows:
        console().print(escape(f"{name}: it misses a feature, so it has no neighbours"))
        return
    cells = [[figure(v) if isinstance(v, float) else v for v in row.values()] for row in rows]
    console().print(table(name, list(rows[0]), cells))
    votes = [f"{c} {v:.0%} (of all cases here {shares[c]:.0%})" for c, v in query["votes"].items()]
    console().print(escape(f"Among them: {'; '.join(votes)}"))
