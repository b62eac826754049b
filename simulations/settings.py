"""From the options of the `sim` commands to what is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from common.embedded import find_study
from common.errors import RunError, StudyError
from common.few_shot_spec import FewShot
from common.plan import compile_study
from common.study import Study, load_study, parse_study
from simulations.world import scenario_of

DEFAULT_STUDY = "breast_cancer"
_DIGITS = 9  # of a number of patients


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
    study_name: str | None, *, command: str, out: Path | None, options: Mapping[str, Any]
) -> Settings:
    """Return the settings of a new run of that command: 'run', 'loho' or 'fewshot'.

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
    study = _with_options(study, {**options, "command": command})
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    run_dir = out if out is not None else _unused(Path("runs") / f"{study.name}-{stamp}")
    return Settings(study, run_dir, True, path.parent, note)


def resume_settings(
    run_dir: Path,
    *,
    command: str,
    study: str | None,
    out: Path | None,
    options: Mapping[str, Any],
) -> Settings:
    """Return the settings of a run that goes on as it was started.

    Where the data lie and which engine runs it may change: they change no figure.

    Raises:
        StudyError: an option would make it another run.
        RunError: the folder holds no run, or one of another command.
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
    started = load_study(path)
    made_by = scenario_of(started).command
    if made_by not in (None, command):
        raise RunError(
            f"{str(run_dir)!r} holds a run of grandrounds sim {made_by}, not of sim {command}",
            remedy=f"go on with: grandrounds sim {made_by} --resume {run_dir}",
        )
    return Settings(_with_options(started, may_change), run_dir, False, run_dir)


def _with_options(study: Study, options: Mapping[str, Any]) -> Study:
    """Return the study with its simulation table as the options have it."""
    given = {k: v for k, v in options.items() if v is not None}
    plain = ("seed", "seeds", "split", "engine", "command")
    changes: dict[str, Any] = {k: given[k] for k in plain if k in given}
    if "arms" in given:
        changes["arms"] = _listed(given["arms"])
    scenario = scenario_of(study)
    if scenario.needs_data and "data" in given:
        changes["data"] = str(given["data"].resolve())
    simulation = scenario.model_dump(mode="json") | changes
    if given.get("command") == "loho":
        simulation["loho"] |= _of_loho(given)
    if given.get("command") == "fewshot":
        simulation["fewshot"] |= _of_fewshot(given, scenario.fewshot)
    values = study.model_dump(mode="json") | {"simulation": simulation}
    changed = parse_study(values, origin="options")
    _check_data(changed)
    return changed


def _of_loho(given: Mapping[str, Any]) -> dict[str, Any]:
    draws = {"draws": given["draws"]} if "draws" in given else {}
    return draws | ({"shots": _shots(given["shots"])} if "shots" in given else {})


def _of_fewshot(given: Mapping[str, Any], rules: FewShot) -> dict[str, Any]:
    """Return the changed rules; a method of the study's own is known by its name."""
    changes: dict[str, Any] = {k: given[k] for k in ("episodes",) if k in given}
    if "ways" in given:
        changes["ways"] = _ways(given["ways"])
    if "shots" in given:
        changes["shots"] = _shots_a_class(given["shots"])
    if "methods" in given:
        own = {method.name: method.model_dump(mode="json") for method in rules.methods}
        changes["methods"] = [own.get(name, name) for name in _listed(given["methods"])]
    return changes


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


def _shots(text: str) -> list[int]:
    remedy = "give whole numbers, 0 or more, with commas between them: --shots 0,16,32"
    listed = _listed(text)
    if not listed:
        raise StudyError(f"--shots is {text!r}: it has no number in it", remedy=remedy)
    for item in listed:
        if not (item.isascii() and item.isdecimal()):
            raise StudyError(f"--shots has {item!r} in it", remedy=remedy)
        if len(item) > _DIGITS:
            raise StudyError(
                f"--shots has a number of {len(item)} digits in it: no hospital has so many "
                "patients",
                remedy=remedy,
            )
    return [int(item) for item in listed]


def _ways(text: str) -> int | str:
    if text == "all":
        return text
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS and int(text) > 1):
        raise StudyError(
            f"--ways is {text!r}", remedy="give 'all', or a whole number of classes from 2"
        )
    return int(text)


def _shots_a_class(text: str) -> list[int | str]:
    """Read numbers, and pairs such as 5/20, whose form the study's table checks."""
    listed = _listed(text)
    if not listed:
        raise StudyError(
            f"--shots is {text!r}: it has no number in it", remedy="give some: --shots 5,20"
        )
    return [item if "/" in item else _a_class(item) for item in listed]


def _a_class(item: str) -> int:
    if not (item.isascii() and item.isdecimal() and len(item) <= _DIGITS and int(item) > 0):
        raise StudyError(
            f"--shots has {item!r} in it",
            remedy="give whole numbers from 1 with commas between them, or for two classes pairs: "
            "--shots 5,20 or --shots 5/20",
        )
    return int(item)


def _unused(path: Path) -> Path:
    """Return the path, or the first of path-2, path-3, ... that is not there yet."""
    candidates = (path.with_name(f"{path.name}-{i}") if i > 1 else path for i in range(1, 10_000))
    return next(p for p in candidates if not p.exists())
