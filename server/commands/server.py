"""The `server` commands. Heavy imports wait for the command, so that help is quick."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.startup import importing
from server.commands.runs import register, told_missed

app = typer.Typer(
    help="Coordinate hospitals: enrol them, keep the server up, run studies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")]


class LogFormat(StrEnum):
    """How log lines are written."""

    text = "text"
    json = "json"


AsJson = Annotated[bool, typer.Option("--json", help="Print plain values instead.")]


@app.callback()
def _group() -> None:
    pass


@app.command(epilog="Example: grandrounds server init coordinator --host grandrounds.example.org")
def init(
    folder: Folder,
    host: Annotated[str, typer.Option(help="The name or IP address that hospitals call.")],
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port that hospitals call.")
    ] = 9092,
    superlink_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="The SuperLink's own port, on the loopback interface. By default PORT where "
            "HOST is this machine alone, else PORT + 1, with nginx in between.",
        ),
    ] = None,
    federation: Annotated[str, typer.Option(help="What the whole is called.")] = "grandrounds",
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Also write a systemd unit to DIR/deploy/.")
    ] = False,
    container: Annotated[
        bool, typer.Option("--container", help="Also write a Containerfile to DIR/deploy/.")
    ] = False,
) -> None:
    """Make a coordinator's folder: authority, server certificate, run store."""
    with importing():
        from server.house.home import create_home
        from server.house.nginx import write_nginx
        from server.house.units import write_deploy

    home = create_home(
        folder, host=host, port=port, superlink_port=superlink_port, federation=federation
    )
    typer.echo(f"coordinator in {home.folder}; hospitals call {home.config.address}")
    if path := write_nginx(home):
        typer.echo(f"filter in {path}, for nginx")
    for path in write_deploy(home, systemd=systemd, container=container):
        typer.echo(f"wrote {path}")
    typer.echo(f"next: grandrounds server enroll {folder} --name NAME --key NODE.pub")


@app.command(
    epilog="Example: grandrounds server enroll coordinator --name cleveland --key node.pub"
)
def enroll(
    folder: Folder,
    name: Annotated[str, typer.Option(help="What the hospital is called, in reports too.")],
    key: Annotated[Path, typer.Option(help="Its public key: keys/node.pub of its site.")],
) -> None:
    """Let a hospital in, also into a study that runs, and write its kit."""
    with importing():
        from server.house.enrolment import enrol, find_site
        from server.house.home import load_home

    home = load_home(folder)
    kit = enrol(home, name=name, key=key)
    site = find_site(home, name)
    typer.echo(f"{name} is enrolled with key {site.fingerprint}")
    if site.node is None:
        typer.echo("the SuperLink does not run: it is told when it starts")
    typer.echo(f"send this kit to the hospital: {kit}")


@app.command(epilog="Example: grandrounds server revoke coordinator cleveland")
def revoke(
    folder: Folder, name: Annotated[str, typer.Argument(help="The hospital's name.")]
) -> None:
    """Shut a hospital out for good; it can come back with new keys only."""
    with importing():
        from server.house.enrolment import revoke as shut_out
        from server.house.home import load_home

    shut_out(load_home(folder), name)
    typer.echo(f"{name} is shut out")


@app.command(epilog="Example: grandrounds server renew coordinator")
def renew(folder: Folder) -> None:
    """Renew the server's certificate; hospitals notice nothing. Restart the server after it."""
    with importing():
        from server.house.certificates import check_valid
        from server.house.home import load_home, renew_certificate

    home = load_home(folder)
    renew_certificate(home)
    ends = check_valid(home.folder / "server.crt", home.ca)
    typer.echo(f"the certificate is valid until {ends:%Y-%m-%d}; restart the server to use it")


@app.command(epilog="Example: grandrounds server start coordinator")
def start(
    folder: Folder,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and show what happens, until Ctrl-C.")
    ] = False,
    log_format: Annotated[
        LogFormat, typer.Option(help="How log lines are written.")
    ] = LogFormat.text,
) -> None:
    """Start the SuperLink and what belongs to it, and keep them up."""
    with importing():
        from server.house import service
        from server.house.home import load_home

    if foreground:
        service.main(str(folder), log_format.value)
        return
    home = load_home(folder)
    pid = service.start(home, style=log_format.value)
    typer.echo(f"the coordinator runs as process {pid}; hospitals call {home.config.address}")
    if note := service.filter_note(home):
        typer.echo(note)


@app.command(epilog="Example: grandrounds server stop coordinator")
def stop(folder: Folder) -> None:
    """Stop the SuperLink and what belongs to it."""
    with importing():
        from server.house import service
        from server.house.home import load_home

    typer.echo("stopped" if service.stop(load_home(folder)) else "it did not run")


@app.command(epilog="Example: grandrounds server status coordinator --json")
def status(folder: Folder, as_json: AsJson = False) -> None:
    """Say whether the server runs, which hospitals are connected, and how the runs stand."""
    with importing():
        from server.house.home import load_home
        from server.house.status import read_status

    found = read_status(load_home(folder))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print_status(found)


def _print_status(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    running = f"runs as process {found['pid']}" if found["running"] else "does not run"
    answers = "" if found["answers"] or not found["running"] else ", but does not answer"
    console.print(f"The coordinator {running}{answers}; hospitals call {found['address']}")
    until = found["certificate_until"]
    word = "is valid" if until > f"{datetime.now(UTC):%Y-%m-%d}" else "WAS VALID"
    console.print(f"Its certificate {word} until {until}\n")
    sites = Table("hospital", "state", "since", "enrolled")
    for site in found["sites"]:
        values = [site["name"], site["state"], site["since"], site["enrolled"]]
        sites.add_row(*(escape(str(value or "")) for value in values))
    console.print(sites)
    runs = Table("run", "state", "rounds done", "message")
    for run in found["runs"]:
        values = [run["run"], run["state"], run["rounds_done"], run["message"]]
        runs.add_row(*(escape(str(value)) for value in values))
    console.print(runs)
    for run in found["runs"]:
        lines = told_missed(run["missed"])
        if run["remedy"]:
            lines.append(f"{run['state']}: {run['remedy']}")
        for line in lines:
            console.print(f"{run['run']}: {line}", markup=False, soft_wrap=True)


register(app)
