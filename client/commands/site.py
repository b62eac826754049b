"""The `site` commands: a hospital's engineer at the desk. Heavy imports wait for the command."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from client.commands import approval as approval_commands
from client.commands import check as check_command
from client.commands import desk as desk_commands
from client.commands import patients as patients_commands
from client.commands import retrieve as retrieve_command
from client.commands import setup as setup_commands
from client.commands.shared import AsJson, Folder, show
from common.startup import importing

app = typer.Typer(
    help="A hospital's side: set up, check, approve, start, watch, stop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _group() -> None:
    pass


setup_commands.register(app)
check_command.register(app)
approval_commands.register(app)


@app.command(epilog="Example: grandrounds site start sites/cleveland --relay-user relay")
def start(
    folder: Folder,
    superlink: Annotated[
        str | None, typer.Option(help="HOST:PORT of the coordinator; by default the kit's.")
    ] = None,
    relay_user: Annotated[
        str | None, typer.Option(help="OS user for the relay, who can read no patient (as root).")
    ] = None,
    tcp: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Loopback port of the agent, where there are no Unix sockets."
        ),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay until stopped, for systemd or a container.")
    ] = False,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="How log lines are written.")
    ] = "text",
    as_json: AsJson = False,
) -> None:
    """Start the agent and the relay, and keep them up."""
    with importing():
        from client.policy import SEEDED
        from client.running.start import StartOptions, start_site
        from client.site import load_site

    site, options = load_site(folder), StartOptions(superlink, relay_user, tcp, log_format)
    if site.policy.noise_seed is not None:
        typer.secho(SEEDED, fg="red", bold=True, err=True)

    def tell(event: Any) -> None:
        typer.echo(event.text(), err=True)

    number = start_site(folder, options, foreground=foreground, on_event=tell)
    if not foreground:
        text = (
            f"Site {site.cohort.name} runs, as process {number}. "
            f"Stop it: grandrounds site stop {folder}"
        )
        show({"site": site.cohort.name, "process": number}, text, as_json=as_json)


@app.command(epilog="Example: grandrounds site stop sites/cleveland")
def stop(folder: Folder, as_json: AsJson = False) -> None:
    """Stop agent and relay in order; a round that is being computed may finish."""
    with importing():
        from client.running.start import name_of, stop_site

    name = name_of(folder)  # not the policy: a site whose policy has a mistake can be stopped
    did_run = stop_site(folder)
    text = f"Site {name} has stopped." if did_run else f"Site {name} did not run."
    show({"site": name, "stopped": did_run}, text, as_json=as_json)


desk_commands.register(app)
patients_commands.register(app)
retrieve_command.register(app)
