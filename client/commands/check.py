"""The `site check` command: what a study would find in the hospital's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from client.commands.shared import (
    AsJson,
    By,
    Cohort,
    Folder,
    compiled,
    console,
    figure,
    table,
    view_of,
)
from common.startup import importing


def register(app: typer.Typer) -> None:
    """Mount `check` on the `site` group."""
    app.command(epilog="Example: grandrounds site check sites/cleveland heart.toml")(check)


def check(
    folder: Folder,
    study: Annotated[
        Path | None,
        typer.Argument(metavar="[STUDY]", help="A study file; else every approved study."),
    ] = None,
    cohort: Cohort = None,
    confirm: Annotated[
        bool,
        typer.Option("--confirm", help="Take the files as they are now for those approved."),
    ] = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Read the patients as a study would, and say what is there; changes nothing."""
    with importing():
        from client.desk.administration import opened, perform
        from client.desk.approval import user_name
        from client.patients.checkup import check_up
        from client.site import load_site
        from common.errors import SiteError

    site = load_site(folder)
    plans = [compiled(study)] if study else list(site.plans().values())
    if cohort is not None:
        site.view(cohort)
    with opened(folder) as desk:
        views = [view_of(site, desk.ledger, plan, cohort if study else None) for plan in plans]
        asked = [
            (view, plan)
            for view, plan in zip(views, plans, strict=True)
            if cohort in (None, view.cohort_name)
        ]
    if not asked:
        of = "" if cohort is None else f" for cohort {cohort!r}"
        raise SiteError(
            f"no study is approved here{of}, so it is not known how the patients are to be read",
            remedy=f"give a study file: grandrounds site check {folder} study.toml",
        )
    if confirm:
        perform(folder, "confirm", by=by or user_name())
    with opened(folder) as desk:
        found = [check_up(view, desk.ledger, plan) for view, plan in asked]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for one in found:
            _print_check(one)
    if any(one["problems"] for one in found):
        raise typer.Exit(1)


def _print_check(found: dict[str, Any]) -> None:
    out = console()
    name = f"{found['study']}, cohort {found['cohort']}"
    out.print(f"\n[bold]{escape(name)}[/]  [bold red]{found['note']}[/]\n")
    rows = [
        (part, name, of["patients"], of["records"])
        for part, values in found["parts"].items()
        for name, of in values["classes"].items()
    ]
    out.print(table("Patients by part and class", ("part", "class", "patients", "records"), rows))
    out.print(f"{found['patients']} patients in all; {found['declared']} are declared in public")
    if found["ranges"]:
        rows = [
            (r["name"], f"{r['range'][0]:g} to {r['range'][1]:g}", *map(figure, r["found"]))
            for r in found["ranges"]
        ]
        columns = ("input", "study's range", "lowest", "mean", "highest")
        out.print(table("Numbers, after clamping and filling in", columns, rows))
    for note in found["notes"]:
        out.print(f"  {escape(note)}")
    out.print(f"device {found['device']['device']}")
    for problem in found["problems"]:
        out.print(f"[bold red]problem:[/] {escape(problem)}")
    if not found["problems"]:
        out.print("[bold green]The patients fit the study.[/]")
