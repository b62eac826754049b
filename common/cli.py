"""The root command. Its groups are found by entry points: no package imports another for them."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version

import typer
from click import Group
from rich.console import Console
from rich.markup import escape
from typer.main import get_command

from common.errors import GrandroundsError, is_disk_full

GROUP = "grandrounds.commands"

_root = typer.Typer(
    name="grandrounds",
    help="Hospitals learn from each other's cases without any case leaving home.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Start with: grandrounds sim run",
)


@_root.callback(invoke_without_command=True)
def _version(
    show: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    if show:
        typer.echo(f"grandrounds {version('grandrounds')}")
        raise typer.Exit


def build_root() -> Group:
    """Return the root command with every installed group; each group's module must import fast."""
    root = get_command(_root)
    assert isinstance(root, Group)
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        command = get_command(entry.load())
        command.name = entry.name  # what help shows
        root.add_command(command)
    return root


def main() -> None:
    """Run the command line. A user's mistake is one message, never a traceback."""
    try:
        build_root()()
    except GrandroundsError as error:
        complain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(130)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        message, remedy = (
            f"{error.strerror or error}{where}",
            "use a path that you may read and write",
        )
        if is_disk_full(error):
            message, remedy = f"the disk is full{where}", "free some space, then go on"
        complain(GrandroundsError(message, remedy=remedy))
        sys.exit(3)


def complain(error: GrandroundsError) -> None:
    """Print an error and its remedy on standard error."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error:[/] {escape(error.message)}")
    console.print(f"  [bold]remedy:[/] {escape(error.remedy)}")


if __name__ == "__main__":
    main()
