"""The `site` commands of every day: status, budget, pause, resume, log, backup, reconcile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from client.commands.shared import AsJson, By, Folder, console, figure, show, table
from common.startup import importing

if TYPE_CHECKING:
    from client.ledger import Entry


def register(app: typer.Typer) -> None:
    """Mount the commands on the `site` group."""
    app.command(epilog="Example: grandrounds site status sites/cleveland")(status)
    app.command(epilog="Example: grandrounds site budget sites/cleveland --json")(budget)
    app.command(epilog="Example: grandrounds site pause sites/cleveland --why 'new scanner'")(pause)
    app.command(epilog="Example: grandrounds site resume sites/cleveland")(resume)
    app.command(epilog="Example: grandrounds site log sites/cleveland --verify")(log)
    app.command(epilog="Example: grandrounds site backup sites/cleveland cleveland-backup.zip")(
        backup
    )
    app.command(epilog="Example: grandrounds site reconcile sites/cleveland")(reconcile)


def status(folder: Folder, as_json: AsJson = False) -> None:
    """Say how the site is: running, paused, what is approved, what is spent."""
    with importing():
        from client.desk.administration import perform
        from client.rpc import admin

    found = perform(folder, "status")
    runs = admin.is_running(folder)
    found = {**found, "running": runs, "health": admin.health(folder) if runs else {}}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print_status(found)


def _print_status(found: dict[str, Any]) -> None:
    out = console()
    state = "paused" if found["paused"] else "answering" if found["running"] else "not started"
    out.print(f"\n[bold]{escape(found['site'])}[/]: {state}, {found['declared']} declared\n")
    if found["seeded_noise"]:
        out.print(f"[bold red]{escape(found['seeded_noise'])}[/]")
    if found["allow_unprotected"]:
        out.print("[bold red]policy.toml lets studies without privacy run.[/]")
    if found["policy"]:
        out.print(f"[bold red]no readable policy, so nothing runs:[/] {escape(found['policy'])}")
    _warn_behind(out, found["behind"])
    for digest, why in found["stale"].items():
        out.print(
            f"[bold red]approval {digest[:12]} no longer holds:[/] {escape(why)}; approve it again"
        )
    rows = [
        (
            s["study"],
            s["digest"][:12],
            s["cohort"],
            f"{s['runs_begun']} of {s['runs_approved']}",
            figure(s["spent"]),
            figure(s["held"]),
            _cohort_word(s["cohort_changed"]),
        )
        for s in found["studies"]
    ]
    columns = ("study", "digest", "cohort", "runs", "epsilon spent", "with held", "patients")
    out.print(table("Approved studies", columns, rows))
    for name in ("epsilon", "delta"):
        allowed, used = found[name]["allowed"], found[name]["held"]
        left = "none" if used is None or allowed is None else figure(allowed - used)
        out.print(f"{name}: {left} left of {figure(allowed)}")
    for name, state in found["health"].items():
        if state == "SERVICE_UNKNOWN":
            continue  # the site has no such part
        out.print(f"[dim]health of {escape(name)}: {escape(state)}[/]")


def _warn_behind(out: Console, why: str | None) -> None:
    """Say first that what is shown as spent may be too little."""
    if why:
        out.print(f"[bold red]ledger must be reconciled first:[/] {escape(why)}")


def _cohort_word(changed: bool | str) -> str:
    if isinstance(changed, str):
        return changed
    return "CHANGED: site check --confirm" if changed else "as approved"


def budget(folder: Folder, as_json: AsJson = False) -> None:
    """Say what was spent and what is left, by cohort and study."""
    with importing():
        from client.desk.administration import perform

    found = perform(folder, "budget")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print_budget(found)


def _print_budget(found: dict[str, Any]) -> None:
    out = console()
    _warn_behind(out, found["behind"])
    rows = [
        (
            line["study"] or "no longer approved",
            line["digest"][:8],
            line["cohort"],
            line["runs"],
            *(_amount(line[key]) for key in ("train", "holdout", "spent", "reserved")),
            figure(line["delta"]),
        )
        for line in found["studies"]
    ]
    columns = ("study", "digest", "cohort", "runs", "training", "evaluating", "spent", "held")
    title = f"{found['site']}: epsilon of one patient by study"
    out.print(table(title, (*columns, "delta"), rows))
    amounts = ("limit", "spent", "reserved", "left")
    purses = [
        (
            line["cohort"],
            name,
            *(_amount(line[name][key]) for key in amounts),
            ", ".join(line["together"]),
        )
        for line in found["cohorts"]
        for name in ("epsilon", "delta")
    ]
    heads = ("cohort", "", "limit", "spent", "held on paper", "left", "adds up with")
    out.print(table("A patient's life, by cohort", heads, purses))
    out.print(
        f"[dim]unit {found['unit']}, adjacency {found['adjacency']}, accountant "
        f"{found['accountant']}; studies add up[/]"
    )


def _amount(value: float | None) -> str:
    return "infinite" if value is None else figure(value)


def pause(
    folder: Folder,
    why: Annotated[
        str, typer.Option(help="For the ledger; the coordinator does not hear it.")
    ] = "",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Refuse every request from now on; what is being computed is finished."""
    _switch(folder, "pause", "The site is paused", as_json=as_json, by=by, why=why)


def resume(folder: Folder, by: By = None, as_json: AsJson = False) -> None:
    """Answer requests again."""
    _switch(folder, "resume", "The site answers", as_json=as_json, by=by)


def _switch(folder: Path, name: str, text: str, *, as_json: bool, **values: Any) -> None:
    with importing():
        from client.desk.administration import perform
        from client.desk.approval import user_name

    found = perform(folder, name, **{**values, "by": values["by"] or user_name()})
    show(found, f"{text}." if found["changed"] else f"{text} already.", as_json=as_json)


def log(
    folder: Folder,
    verify: Annotated[
        bool, typer.Option("--verify", help="Look for entries edited, removed or reordered.")
    ] = False,
    tail: Annotated[int, typer.Option(min=1, help="How many of the last entries.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the ledger: every release and its price, refusals, approvals, pauses."""
    with importing():
        from client.desk.administration import opened

    with opened(folder) as desk:
        verdict = desk.ledger.verify() if verify else None
        entries = list(desk.ledger.entries())[-tail:]
    values = {
        "entries": [_plain(entry) for entry in entries],
        "verified": None if verdict is None else asdict(verdict),
    }
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    else:
        _print_log(entries)
        if verdict is not None and verdict.ok:
            console().print("[bold green]Verified:[/] the chain of all entries is whole.")
    if verdict is not None and not verdict.ok:
        with importing():
            from common.errors import SiteError
        where = "" if verdict.first_bad is None else f", first at entry {verdict.first_bad}"
        raise SiteError(
            f"the ledger is not as it was written: {verdict.what}{where}",
            remedy="stop the site, keep a copy of its folder, restore a backup, then reconcile",
        )


def _print_log(entries: list[Entry]) -> None:
    rows = [(e.seq, e.at[:19].replace("T", " "), e.kind, _brief(e.body)) for e in entries]
    console().print(table("Ledger", ("entry", "when", "kind", "what"), rows))


def _plain(entry: Entry) -> dict[str, Any]:
    return {"seq": entry.seq, "at": entry.at, "kind": entry.kind, "body": dict(entry.body)}


def _brief(body: Mapping[str, Any]) -> str:
    """Return an entry's content in one cell: digests cut short."""
    texts = []
    for key, value in body.items():
        if key == "nonce" or value in ("", [], None):
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
        texts.append(f"{key} {text[:12] if is_digest else text}")
    return ", ".join(texts)


def backup(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The zip archive to write.")],
    as_json: AsJson = False,
) -> None:
    """Back up keys, policy, approvals and ledger: no patient is in it, but secrets are."""
    with importing():
        from client.desk.administration import opened
        from client.desk.backup import back_up

    with opened(folder) as desk:
        names = back_up(folder, desk.ledger, file)
    text = f"Written: {file}, {len(names)} files. It holds the site's keys: keep it as safe."
    show({"file": str(file), "names": names}, text, as_json=as_json)


def reconcile(folder: Folder, by: By = None, as_json: AsJson = False) -> None:
    """Charge what a ledger that is behind may have lost, so that the site can go on."""
    with importing():
        from client.desk.administration import perform
        from client.desk.approval import user_name

    found = perform(folder, "reconcile", by=by or user_name())
    lines = [f"The ledger was behind: {found['behind']}"]
    lines += [
        f"  charged {one['runs']} whole run(s) of {one['study']} ({one['digest'][:12]})"
        for one in found["charged"]
    ] or ["  no study was approved: nothing to charge"]
    show(found, "\n".join([*lines, "The site can go on."]), as_json=as_json)
