"""The `site` commands that begin: init and join."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands.shared import AsJson, Folder, show
from common.errors import SiteError
from common.startup import importing

if TYPE_CHECKING:
    from client.desk.setup import Beginning


def register(app: typer.Typer) -> None:
    """Mount `init` and `join` on the `site` group."""
    app.command(
        epilog="Example: grandrounds site init sites/cleveland --name cleveland "
        "--data cleveland.csv --declared 300 --epsilon 5"
    )(init)
    app.command(epilog="Example: grandrounds site join sites/cleveland cleveland.zip")(join)


def init(
    folder: Folder,
    name: Annotated[
        str | None, typer.Option(help="The site's name, as the coordinator enrols it.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The patients: CSV, Parquet, npz archive, or an index of images."),
    ] = None,
    declared: Annotated[
        int | None, typer.Option(help="Public, rounded count of all patients; chosen once.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Budget of a patient's life, all studies together.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Likewise; by default 1/(2 x declared).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    relay_user: Annotated[
        str | None, typer.Option(help="OS user for the relay, in the files of --systemd.")
    ] = None,
    systemd: Annotated[bool, typer.Option("--systemd", help="Write a unit file too.")] = False,
    container: Annotated[
        bool, typer.Option("--container", help="Write a Containerfile too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; flags and defaults.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a site's folder: keys, policy, empty ledger. Asks for what the flags do not give."""
    with importing():
        from client.desk.setup import Beginning, check_unused, default_delta, make_site

    check_unused(folder)
    if relay_user is not None and not (systemd or container):
        raise SiteError(
            f"--relay-user is {relay_user!r}, and no file is asked for that would name that user",
            remedy="add --systemd or --container, or give it to grandrounds site start instead",
        )
    asks = _is_terminal() and not yes
    count = _given("declared", declared, "Patients, rounded, as published", int, asks=asks)
    beginning = Beginning(
        name=_given("name", name, "Name of the site", str, asks=asks),
        data=Path(_given("data", data, "File of the patients", str, asks=asks)),
        declared=count,
        epsilon=_given("epsilon", epsilon, "Epsilon for a patient's life", float, asks=asks),
        delta=default_delta(count) if delta is None and count > 0 else delta,
        device=device,
    )
    if asks:
        typer.confirm(_summary(folder, beginning), default=True, abort=True)
    key = make_site(folder, beginning)
    written = _write_deploy(
        folder, beginning.name, relay_user, systemd=systemd, container=container
    )
    values = {
        "site": beginning.name,
        "folder": str(folder),
        "public_key": str(folder / "keys" / "node.pub"),
        "fingerprint": key,
        "files": [str(path) for path in written],
    }
    show(values, _next_steps(folder, values), as_json=as_json)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _given(flag: str, value: Any, question: str, kind: type, *, asks: bool) -> Any:
    """Return a flag's value, or ask, or say which flag is missing."""
    if value is not None:
        return value
    if asks:
        return typer.prompt(question, type=kind)
    raise SiteError(
        f"--{flag} is missing, and nobody can be asked here",
        remedy=f"give --{flag}, or run this in a terminal without --yes",
    )


def _summary(folder: Path, beginning: Beginning) -> str:
    return (
        f"Make site {beginning.name} in {folder}, patients in {beginning.data}, declared "
        f"{beginning.declared}, budget epsilon {beginning.epsilon:g} and delta "
        f"{beginning.delta:g}?"
    )


def _next_steps(folder: Path, values: dict[str, Any]) -> str:
    lines = [
        f"Site {values['site']} is set up in {folder}.",
        f"Its key has the fingerprint {values['fingerprint']}.",
        *(f"Written: {path}" for path in values["files"]),
        "Next:",
        f"  read {folder}/policy.toml and set the hospital's own limits",
        f"  send {values['public_key']} to the coordinator, and tell the fingerprint by phone",
        f"  grandrounds site join {folder} KIT.zip",
        f"  grandrounds site review {folder} study.toml",
        f"  grandrounds site approve {folder} study.toml",
        f"  grandrounds site start {folder}",
        "Keep a backup of this folder; keys/ and split_key cannot be made again.",
    ]
    return "\n".join(lines)


def _write_deploy(
    folder: Path, name: str, relay_user: str | None, *, systemd: bool, container: bool
) -> list[Path]:
    """Write a unit file and a Containerfile where they are asked for."""
    if not (systemd or container):
        return []
    with importing():
        from common.running.units import Service, write_units

    service = Service(
        name=f"grandrounds-site-{name}",
        about=f"grandrounds agent and relay of {name}",
        group="site",
        folder=folder.resolve(),
        stop_s=100,
        relay_user=relay_user,
    )
    (folder / "deploy").mkdir(mode=0o700)
    return write_units(folder / "deploy", service, systemd=systemd, container=container)


def join(
    folder: Folder,
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The zip file of the coordinator.")],
    as_json: AsJson = False,
) -> None:
    """Unpack the coordinator's kit, and hold it to this site's name and key."""
    with importing():
        from client.desk.setup import join as join_kit

    found = join_kit(folder, kit)
    text = f"Site {found.name} is enrolled with {found.address}. Next: site start {folder}"
    show({"site": found.name, "address": found.address}, text, as_json=as_json)
