"""From the options of `sim run` and `sim loho` to what is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from common.errors import RunError, StudyError
from common.plan import compile_study
from common.study import Study, load_study, parse_study
from simulations.runner import scenario_of

DEFAULT_STUDY = "breast_cancer"


@dataclass(frozen=True)
class Settings:
    """What one run is to do.

    Attributes:
        study: With its simulation table as the options have it.
        fresh: Whether the run folder is to be made.
        study_folder: Where the study file lies, for a weights file beside it.
        note: What the user should know beforehand.
    """

    study: Study
    run_dir: Path
    fresh: bool
    study_folder: Path
    note: str = ""


def start_settings(
    study_name: str | None, *, out: Path | None, options: Mapping[str, Any]
) -> Settings:
    """Return the settings of a new run.

    Raises:
        StudyError: the study or an option is not valid.
    """
    path = find_study(study_name or DEFAULT_STUDY)
    study, note = load_study(path), ""
    if options.get("epsilon") is not None:
        before = study
        study = study.with_epsilon(_epsilon(options["epsilon"]))
        note = (
            f"--epsilon {options['epsilon']} makes this another study: digest "
            f"{compile_study(study).digest[:16]} in place of {compile_study(before).digest[:16]}"
        )
    study = _with_options(study, options)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    run_dir = out if out is not None else _unused(Path("runs") / f"{study.name}-{stamp}")
    return Settings(study, run_dir, True, path.parent, note)


def resume_settings(
    run_dir: Path, *, study: str | None, out: Path | None, options: Mapping[str, Any]
) -> Settings:
    """Return the settings of a run that goes on as it was started.

    Where the data lie and which engine runs it may change: they change no figure.

    Raises:
        StudyError: an option would make it another run.
        RunError: the folder holds no run.
    """
    may_change = {k: v for k, v in options.items() if k in ("data", "engine")}
    others = {"out": out} | {k: v for k, v in options.items() if k not in may_change}
    given = [f"--{k}" for k, v in others.items() if v is not None] + (["STUDY"] if study else [])
    if given:
        raise StudyError(
            f"--resume goes on with a run as it was started, and {given[0]} is given too",
            remedy=f"leave {given[0]} out, or start a new run",
        )
    path = run_dir / "study.toml"
    if not path.is_file():
        raise RunError(
            f"{str(run_dir)!r} holds no run to resume (no study.toml)",
            remedy="give the folder that the run named when it started",
        )
    return Settings(_with_options(load_study(path), may_change), run_dir, False, run_dir)


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


def _with_options(study: Study, options: Mapping[str, Any]) -> Study:
    """Return the study with its simulation table as the options have it."""
    given = {k: v for k, v in options.items() if v is not None}
    plain = ("seed", "seeds", "split", "engine")
    changes: dict[str, Any] = {k: given[k] for k in plain if k in given}
    if "arms" in given:
        changes["arms"] = _listed(given["arms"])
    loho: dict[str, Any] = {"draws": given["draws"]} if "draws" in given else {}
    if "shots" in given:
        loho["shots"] = [_number("--shots", text) for text in _listed(given["shots"])]
    scenario = scenario_of(study)
    if scenario.needs_data and "data" in given:
        changes["data"] = str(given["data"].resolve())
    simulation = scenario.model_dump(mode="json") | changes
    simulation["loho"] |= loho
    values = study.model_dump(mode="json") | {"simulation": simulation}
    changed = parse_study(values, origin="options")
    _check_data(changed)
    return changed


def _check_data(study: Study) -> None:
    scenario = scenario_of(study)
    if not scenario.needs_data or (scenario.data is not None and scenario.data.is_dir()):
        return
    folder = "no data folder is given"
    if scenario.data is not None:
        folder = f"the data folder {str(scenario.data)!r} does not exist"
    raise StudyError(
        f"study {study.name!r} reads hospitals' files, and {folder}",
        remedy="give --data DIR, or set GRANDROUNDS_DATA; grandrounds data list shows the sets",
    )


def _epsilon(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise StudyError(
            f"--epsilon is {text!r}", remedy="give a number such as 3, or 'none'"
        ) from None


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _number(option: str, text: str) -> int:
    if not text.isdecimal():
        raise StudyError(f"{option} has {text!r} in it", remedy="give whole numbers, with commas")
    return int(text)


def _unused(path: Path) -> Path:
    """Return the path, or the first of path-2, path-3, ... that is not there yet."""
    candidates = (path.with_name(f"{path.name}-{i}") if i > 1 else path for i in range(1, 10_000))
    return next(p for p in candidates if not p.exists())
