"""The `data` commands. Heavy imports wait for the command, so that help is quick."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.startup import importing

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from simulations.by_hand import ByHand
    from simulations.datasets import DataFile, Dataset
    from simulations.fetch import Meter

INTERRUPTED = 130  # what a shell reports for Ctrl-C

app = typer.Typer(
    help="Public data sets of the studies, from their official homes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _group() -> None:
    pass


@app.command("list", epilog="Example: grandrounds data list --data DATA")
def list_sets(
    data: Annotated[Path, typer.Option(
        help="The data folder to look in.", envvar="GRANDROUNDS_DATA")] = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """List the data sets, and which of them are in the data folder."""
    with importing():
        from rich.console import Console

        from simulations.by_hand import BY_HAND
        from simulations.datasets import DATASETS

    everything: tuple[Dataset | ByHand, ...] = (*DATASETS, *BY_HAND)
    if as_json:
        sets = [_described(dataset, data) for dataset in everything]
        typer.echo(json.dumps({"folder": str(data), "sets": sets}, indent=2))
        return
    Console(highlight=False).print(_table(everything, data))


@app.command(epilog="Example: grandrounds data fetch heart --to DATA")
def fetch(
    name: Annotated[str, typer.Argument(help="A name that `grandrounds data list` shows.")],
    to: Annotated[Path, typer.Option(
        help="The data folder to fetch into.", envvar="GRANDROUNDS_DATA")] = Path("data"),
) -> None:  # fmt: skip
    """Fetch the data set NAME (see `data list`), check it, and print where its files are."""
    with importing():
        from rich.console import Console
        from rich.markup import escape

        from simulations.datasets import find_dataset
        from simulations.fetch import fetch as fetch_files

    dataset = find_dataset(name)
    messages = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        messages.print(escape(line))

    say(f"{dataset.title}; {dataset.licence}; cite https://doi.org/{dataset.cite}")
    try:
        with _progress(messages) as meter:
            paths = fetch_files(dataset, to, say=say, meter=meter)
    except KeyboardInterrupt:
        say(f"interrupted; go on with: grandrounds data fetch {name} --to {to}")
        raise typer.Exit(INTERRUPTED) from None
    for path in paths:
        typer.echo(str(path))


@contextmanager
def _progress(console: Console) -> Iterator[Meter]:
    """Show a bar a file on a terminal; elsewhere the lines that name the files have to do."""
    if not console.is_terminal:
        yield lambda file, done: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Remaining())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(file: DataFile, done: int) -> None:
            if file.path not in tasks:
                tasks[file.path] = progress.add_task(file.path, total=file.size)
            progress.update(tasks[file.path], completed=done)

        yield show


def _described(dataset: Dataset | ByHand, folder: Path) -> dict[str, Any]:
    from simulations.by_hand import ByHand, hand_state
    from simulations.datasets import file_state, studies_of

    keys = ("name", "title", "count", "unit", "licence", "home", "cite")
    described = {key: getattr(dataset, key) for key in keys} | {"studies": studies_of(dataset)}
    if isinstance(dataset, ByHand):
        made = [{"path": path, "state": hand_state(path, folder)} for path in dataset.paths]
        return described | {"by_hand": list(dataset.how), "bytes": None, "files": made}
    files = [
        {
            "path": file.path,
            "url": file.url,
            file.algorithm: file.digest,
            "bytes": file.size,
            "state": file_state(file, folder),
        }
        for file in dataset.files
    ]
    return described | {"by_hand": None, "bytes": dataset.size, "files": files}


def _table(datasets: tuple[Dataset | ByHand, ...], folder: Path) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from simulations.datasets import Dataset, studies_of

    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_lines=False,
        caption=escape(
            f"looked in {folder}; fetch one with: grandrounds data fetch NAME, which says how to "
            "get one by hand"
        ),
        caption_justify="left",
    )
    table.add_column("name", no_wrap=True)
    table.add_column("what, and which studies read it")
    table.add_column("found", overflow="fold")
    for dataset in datasets:
        volume = _bytes(dataset.size) if isinstance(dataset, Dataset) else "by hand"
        what = f"{dataset.title}: {dataset.count:,} {dataset.unit}, {volume}, {dataset.licence}"
        studies = ", ".join(studies_of(dataset)) or "no study of ours"
        found = escape(_found(dataset, folder))
        table.add_row(dataset.name, f"{escape(what)}\n[dim]{escape(studies)}[/]", found)
    return table


def _found(dataset: Dataset | ByHand, folder: Path) -> str:
    from simulations.by_hand import ByHand, hand_state
    from simulations.datasets import file_state

    if isinstance(dataset, ByHand):
        states: list[str] = [hand_state(path, folder) for path in dataset.paths]
    else:
        states = [file_state(file, folder) for file in dataset.files]
    if "differs" in states:
        return "differs"
    here = states.count("correct") + states.count("present")
    if here == len(states):
        return str(Path(dataset.paths[0]).parent)
    if here:
        return f"{here} of {len(states)} files"
    return "begun" if "partial" in states else "-"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"
