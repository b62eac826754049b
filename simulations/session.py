"""One run of a `sim` command: through interrupts and errors to the files of a run folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import typer
from rich.console import Console
from rich.markup import escape

from common.blocks import keep_blocks
from common.errors import DataError, StudyError
from common.files import only_one, write_atomic
from common.scenario import FEDERATED
from common.study import Study
from server.effect_tables import print_effect
from server.progress import live_progress
from server.report import METRICS, write_pages
from server.results import write_model
from simulations.display import print_comparison, print_few_shot, print_leave_one_out
from simulations.effects import run_effect
from simulations.fewshot.results import few_shot_metrics
from simulations.fewshot.rules import rounds_of
from simulations.fewshot.run import few_shot
from simulations.loho import leave_one_out
from simulations.loho_results import loho_metrics
from simulations.results import metrics_of
from simulations.runner import compare, prepare
from simulations.settings import Settings
from simulations.world import Say, scenario_of

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
    keep_blocks()
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
            _say_notes(metrics, say)
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


def _say_notes(metrics: Metrics, say: Say) -> None:
    """Tell what the readers saw; missing values, which are many, stand in metrics.json alone."""
    for site in metrics.get("sites") or metrics.get("centres") or []:
        notes = [note for note in site.get("notes", []) if not note.endswith(" missing")]
        if notes:
            say(f"{site['name']}: {'; '.join(notes)} (exact, would not leave the hospital)")


def work_of(command: str, study: Study) -> Work:
    """Return what a command does with a study.

    Raises:
        StudyError: the study is of an effect, and the command is about training.
    """
    if study.effect is None:
        return WORKS[command]
    if command != "run":
        study.check_trains(f"sim {command}")
    return Work("run", _effect, lambda study: 0, print_effect)


def _effect(settings: Settings, say: Say, started: float) -> Metrics:
    engine = scenario_of(settings.study).engine
    return run_effect(settings.study, settings.run_dir, engine=engine, say=say, started=started)


def _compare(settings: Settings, say: Say, started: float) -> Metrics:
    run_dir, engine = settings.run_dir, scenario_of(settings.study).engine
    comparison = compare(settings.study, run_dir, engine=engine, say=say)
    seconds = time.monotonic() - started
    metrics = metrics_of(comparison, run_dir, engine=engine, seconds=seconds)
    params = comparison.outcomes[comparison.main_arm][0].params
    if params is not None:
        write_model(run_dir, params, digest=metrics["study_digest"])
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
    return len(scenario.loho.arms) * scenario.count * study.rounds.count


def _few_shot(settings: Settings, say: Say, started: float) -> Metrics:
    run_dir, engine = settings.run_dir, scenario_of(settings.study).engine
    found = few_shot(settings.study, run_dir, engine=engine, say=say)
    return few_shot_metrics(found, run_dir, engine=engine, seconds=time.monotonic() - started)


WORKS = {
    work.command: work
    for work in (
        Work("run", _compare, _rounds_to_compare, print_comparison),
        Work("loho", _leave_one_out, _rounds_to_leave_out, print_leave_one_out),
        Work("fewshot", _few_shot, rounds_of, print_few_shot),
    )
}
