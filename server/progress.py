"""How far a run is, on the terminal, read from the run store: whatever carries the messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.store import Store

_POLL_S = 0.25


@contextmanager
def live_progress(console: Console, run_dir: Path, *, rounds: int) -> Iterator[None]:
    """Show how many rounds of all jobs are done, read from the run store, whatever the engine."""
    columns = (
        TextColumn("federated rounds"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    if rounds == 0 or not console.is_terminal:
        yield
        return
    done, store = threading.Event(), Store(run_dir)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("rounds", total=rounds)

        def watch() -> None:
            while not done.wait(_POLL_S):
                progress.update(task, completed=store.rounds_done())

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            store.close()
