"""The studies that come with grandrounds, found by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from common.errors import StudyError


def embedded_studies() -> list[Path]:
    """Return the files of the studies that come with grandrounds, in the order of their names.

    >>> "heart" in [path.stem for path in embedded_studies()]
    True
    """
    return sorted(_folder().glob("*.toml"))


def find_study(name: str) -> Path:
    """Return the study file of that path, or the one of that name that comes with grandrounds.

    Raises:
        StudyError: there is neither.

    >>> find_study("heart-flamby").name
    'heart_flamby.toml'
    """
    if Path(name).is_file():
        return Path(name)
    path = _folder() / f"{name.replace('-', '_')}.toml"
    if path.is_file():
        return path
    known = ", ".join(path.stem for path in embedded_studies())
    raise StudyError(
        f"study {name!r} is neither a file nor one that comes with grandrounds ({known})",
        remedy="check the path, or name one of those",
    )


def _folder() -> Path:
    # By the package's name: a simulation's studies are data here, and none of its code is needed.
    return Path(str(files("simulations"))) / "studies"
