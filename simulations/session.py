"""One `sim run`: from options to a run folder, through interrupts and errors to files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from safetensors.torch import save

from common.errors import RunError, StudyError
from common.files import write_atomic
from common.plan import compile_study
from common.scenario import FEDERATED
from common.study import Study, load_study, parse_study
from server.report import METRICS, write_pages
from simulations.display import live_progress
from simulations.engines import ENGINES
from simulations.results import metrics_of
from simulations.runner import Comparison, compare, prepare, scenario_of

DEFAULT_STUDY = "breast_cancer"
INTERRUPTED = 130  # what a shell reports for Ctrl-C


@dataclass(frozen=True)
class Settings:
    """What one run is to do.

    Attributes:
        study: With its simulation table as the options have it.
        fresh: Whether the run folder is to be made.
        study_folder: Where the study file lies, for a weights file beside it.
    """

    study: Study
    run_dir: Path
    engine: str
    fresh: bool
    study_folder: Path
    note: str = ""


def start_settings(
    study_name: str | None,
    *,
    data: Path | None,
    out: Path | None,
    options: Mapping[str, Any],
    engine: str,
) -> Settings:
    """Return the settings of a new run.

    Raises:
        StudyError: the study or an option is not valid.
    """
    path = find_study(study_name or DEFAULT_STUDY)
    study, note = load_study(path), ""
    _check_engine(engine)
    if options["epsilon"] is not None:
        before = study
        study = study.with_epsilon(_epsilon(options["epsilon"]))
        note = (
            f"--epsilon {options['epsilon']} makes this another study: digest "
            f"{compile_study(study).digest[:16]} in place of {compile_study(before).digest[:16]}"
        )
    study = _with_options(study, options, data)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    run_dir = out if out is not None else _unused(Path("runs") / f"{study.name}-{stamp}")
    return Settings(study, run_dir, engine, True, path.parent, note)


def resume_settings(
    run_dir: Path,
    *,
    study: str | None,
    out: Path | None,
    options: Mapping[str, Any],
    engine: str,
) -> Settings:
    """Return the settings of a run that goes on as it was started.

    Raises:
        RunError: the folder holds no run, or an option would make it another run.
    """
    given = [f"--{k}" for k, v in {"out": out, **options}.items() if v is not None]
    given += ["STUDY"] if study else []
    if given:
        raise RunError(
            f"--resume goes on with a run as it was started, and {given[0]} is given too",
            remedy=f"leave {given[0]} out, or start a new run",
        )
    _check_engine(engine)
    path = run_dir / "study.toml"
    if not path.is_file():
        raise RunError(
            f"{str(run_dir)!r} holds no run to resume (no study.toml)",
            remedy="give the folder that `sim run` named when it started",
        )
    return Settings(load_study(path), run_dir, engine, False, run_dir)


def run_session(settings: Settings, messages: Console) -> dict[str, Any]:
    """Run everything and write the run folder's files; return the metrics.

    Raises:
        GrandroundsError: see `compare`; the folder can be resumed.
        typer.Exit: the user pressed Ctrl-C.
    """
    started, study, run_dir = time.monotonic(), settings.study, settings.run_dir
    torch.set_num_threads(1)  # small models lose more to waiting threads than they gain
    if settings.fresh:
        prepare(study, run_dir, weights_from=settings.study_folder)

    def say(line: str) -> None:
        messages.print(escape(line))

    for line in filter(None, (f"run folder: {run_dir}", settings.note)):
        say(line)
    if study.privacy is None:
        say("NOT PRIVATE: the study has no privacy table; epsilon is infinite")
    try:
        with live_progress(messages, run_dir, rounds=_rounds(study)):
            comparison = compare(study, run_dir, engine=settings.engine, say=say)
        seconds = time.monotonic() - started
        metrics = metrics_of(comparison, run_dir, engine=settings.engine, seconds=seconds)
        _write(comparison, metrics, run_dir)
    except KeyboardInterrupt:
        say("interrupted; what was done is kept")
        say(f"go on with: grandrounds sim run --resume {run_dir}")
        raise typer.Exit(INTERRUPTED) from None
    except BaseException:
        say(f"the run can be resumed: grandrounds sim run --resume {run_dir}")
        raise
    return metrics


def find_study(name: str) -> Path:
    """Return the study file of that path, or the one of that name that comes with grandrounds.

    Raises:
        StudyError: there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    embedded = Path(str(files("simulations"))) / "studies"
    path = embedded / f"{name.replace('-', '_')}.toml"
    if path.is_file():
        return path
    known = ", ".join(sorted(p.stem for p in embedded.glob("*.toml")))
    raise StudyError(
        f"study {name!r} is neither a file nor one that comes with grandrounds ({known})",
        remedy="check the path, or name one of those",
    )


def _with_options(study: Study, options: Mapping[str, Any], data: Path | None) -> Study:
    changes = {k: options[k] for k in ("seed", "seeds", "split") if options[k] is not None}
    if options["arms"] is not None:
        changes["arms"] = [a.strip() for a in options["arms"].split(",") if a.strip()]
    if data is not None:
        changes["data"] = str(data.resolve())
    scenario = scenario_of(study)
    if scenario.sites and data is None and scenario.data is None:
        raise StudyError(
            f"study {study.name!r} reads hospitals' files, and no data folder is given",
            remedy="give --data DIR, or set GRANDROUNDS_DATA",
        )
    simulation = scenario.model_dump(mode="json") | changes
    values = study.model_dump(mode="json") | {"simulation": simulation}
    return parse_study(values, origin="options")


def _epsilon(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise StudyError(
            f"--epsilon is {text!r}", remedy="give a number such as 3, or 'none'"
        ) from None


def _check_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise StudyError(f"--engine is {engine!r}", remedy=f"use one of {', '.join(ENGINES)}")


def _rounds(study: Study) -> int:
    scenario = scenario_of(study)
    federated = sum(scenario.arm_named(a).kind in FEDERATED for a in scenario.arms)
    return federated * scenario.seeds * study.rounds.count


def _unused(path: Path) -> Path:
    """Return the path, or the first of path-2, path-3, ... that is not there yet."""
    candidates = (path.with_name(f"{path.name}-{i}") if i > 1 else path for i in range(1, 10_000))
    return next(p for p in candidates if not p.exists())


def _write(comparison: Comparison, metrics: Mapping[str, Any], run_dir: Path) -> None:
    params = comparison.outcomes[comparison.main_arm][0].params
    if params is not None:
        header = {"study": comparison.study.name, "digest": str(metrics["study_digest"])}
        tensors = {k: v.contiguous() for k, v in params.items()}
        write_atomic(run_dir / "model.safetensors", save(tensors, metadata=header))
    write_atomic(run_dir / METRICS, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    write_pages(run_dir)
