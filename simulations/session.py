"""One `sim run` or `sim loho`: through interrupts and errors to the files of a run folder."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from safetensors.torch import save

from common.errors import DataError, RunError, StudyError
from common.files import write_atomic
from common.scenario import FEDERATED
from common.study import Study
from server.report import METRICS, write_pages
from simulations.display import live_progress, print_comparison, print_leave_one_out
from simulations.loho import FEDERATED_ARMS, leave_one_out
from simulations.loho_results import loho_metrics
from simulations.results import metrics_of
from simulations.runner import Say, compare, prepare, scenario_of
from simulations.settings import Settings

INTERRUPTED = 130  # what a shell reports for Ctrl-C

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What a command does in a run folder.

    Attributes:
        command: Its name, for the advice how to resume.
        do: (settings, say, clock at the start) -> metrics.
        rounds: How many federated rounds it takes in all.
        show: Prints the metrics.
    """

    command: str
    do: Callable[[Settings, Say, float], Metrics]
    rounds: Callable[[Study], int]
    show: Callable[[Console, Mapping[str, Any]], None]


def run_session(settings: Settings, work: Work, messages: Console) -> Metrics:
    """Make the run folder, do the work in it and write its pages; return the metrics.

    Raises:
        GrandroundsError: whatever the work raises; the folder can be resumed.
        typer.Exit: the user pressed Ctrl-C.
    """
    started, study, run_dir = time.monotonic(), settings.study, settings.run_dir
    torch.set_num_threads(1)  # small models lose more to waiting threads than they gain
    is_ours = settings.fresh and not run_dir.exists()
    if settings.fresh:
        prepare(study, run_dir, weights_from=settings.study_folder)

    def say(line: str) -> None:
        messages.print(escape(line))

    for line in filter(None, (f"run folder: {run_dir}", settings.note)):
        say(line)
    if study.privacy is None:
        say("NOT PRIVATE: the study has no privacy table; epsilon is infinite")
    resume = f"grandrounds sim {work.command} --resume {run_dir}"
    try:
        with only_one(run_dir), live_progress(messages, run_dir, rounds=work.rounds(study)):
            metrics = work.do(settings, say, started)
            text = json.dumps(metrics, indent=2, allow_nan=False)
            write_atomic(run_dir / METRICS, text + "\n")
            write_pages(run_dir)
    except KeyboardInterrupt:
        say("interrupted; what was done is kept")
        say(f"go on with: {resume}")
        raise typer.Exit(INTERRUPTED) from None
    except (StudyError, DataError):
        if is_ours:  # going on with it would fail in the same way
            shutil.rmtree(run_dir, ignore_errors=True)
        raise
    except BaseException:
        say(f"once that is mended, go on with: {resume}")
        raise
    return metrics


@contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Keep a second process out of a run folder; the system lets go when this one ends.

    Raises:
        RunError: another process runs it.
    """
    with (run_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"run folder {str(run_dir)!r} is being run by another process",
                remedy="wait for it to end, or give --out another folder",
            ) from None
        yield


def _compare(settings: Settings, say: Say, started: float) -> Metrics:
    run_dir, engine = settings.run_dir, scenario_of(settings.study).engine
    comparison = compare(settings.study, run_dir, engine=engine, say=say)
    seconds = time.monotonic() - started
    metrics = metrics_of(comparison, run_dir, engine=engine, seconds=seconds)
    params = comparison.outcomes[comparison.main_arm][0].params
    if params is not None:
        header = {"digest": str(metrics["study_digest"])}  # one key: two have no fixed order
        tensors = {k: v.contiguous() for k, v in params.items()}
        write_atomic(Path(run_dir) / "model.safetensors", save(tensors, metadata=header))
    return metrics


def _rounds_to_compare(study: Study) -> int:
    scenario = scenario_of(study)
    federated = sum(scenario.arm_named(a).kind in FEDERATED for a in scenario.arms)
    return federated * scenario.seeds * study.rounds.count


def _leave_one_out(settings: Settings, say: Say, started: float) -> Metrics:
    run_dir, engine = settings.run_dir, scenario_of(settings.study).engine
    found = leave_one_out(settings.study, run_dir, engine=engine, say=say)
    return loho_metrics(found, run_dir, engine=engine, seconds=time.monotonic() - started)


def _rounds_to_leave_out(study: Study) -> int:
    scenario = scenario_of(study)
    return len(FEDERATED_ARMS) * scenario.count * study.rounds.count


COMPARISON = Work("run", _compare, _rounds_to_compare, print_comparison)
LEAVE_ONE_OUT = Work("loho", _leave_one_out, _rounds_to_leave_out, print_leave_one_out)
