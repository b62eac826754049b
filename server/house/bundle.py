"""The Flower App directory that `flwr run` bundles: the installed packages and their settings."""

from __future__ import annotations

import importlib.util
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

import tomli_w

from common.errors import EngineError

Scalar: TypeAlias = str | int | float | bool

# What a run may override, with the defaults of pyproject.toml; Flower refuses any other key.
APP_CONFIG: Mapping[str, Scalar] = {
    "run-dir": "",
    "plan": "",
    "seed": 0,
    "nodes": 0,
    "job": "main",
    "sites-dir": "",
    "mode": "run",
}


def write_app(
    folder: Path,
    *,
    packages: Sequence[str] = ("server", "client", "common"),
    config: Mapping[str, Scalar] = APP_CONFIG,
) -> Path:
    """Write a Flower App directory that holds the Python files of the installed packages.

    Args:
        folder: Where the app is written; made if missing, and the packages' folders in it replaced.
        packages: Top-level packages to copy, from a wheel as from a clone.
        config: Keys and defaults of the app's run configuration.

    Returns:
        The folder.

    Raises:
        EngineError: A package is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     sorted(path.name for path in write_app(Path(scratch), packages=["json"]).iterdir())
    ['json', 'pyproject.toml']
    """
    for package in packages:
        source = _package_folder(package)
        shutil.rmtree(folder / package, ignore_errors=True)
        for file in sorted(source.rglob("*.py")):
            target = folder / package / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    app = {
        "publisher": "grandrounds",
        "fab-include": [f"{package}/**/*.py" for package in packages],
        "components": {"serverapp": "server.app:app", "clientapp": "client.app:app"},
        "config": dict(config),
    }
    document = {"project": _project_table(), "tool": {"flwr": {"app": app}}}
    (folder / "pyproject.toml").write_text(tomli_w.dumps(document), encoding="utf-8")
    return folder


def check_run(app_dir: Path, run_config: Mapping[str, Scalar], num_nodes: int) -> None:
    """Refuse early what Flower would refuse late, or not at all."""
    if num_nodes < 1:
        raise EngineError(f"num_nodes is {num_nodes}", remedy="simulate at least one hospital")
    try:
        text = (app_dir / "pyproject.toml").read_text(encoding="utf-8")
        declared = tomllib.loads(text)["tool"]["flwr"]["app"].get("config", {})
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(
            f"{app_dir} is no Flower App: {error!r}", remedy="make one with write_app"
        ) from error
    if unknown := sorted(set(run_config) - set(declared)):
        raise EngineError(
            f"the run configuration has keys that the app does not declare: {unknown}",
            remedy=f"use some of {sorted(declared)}, or declare them in [tool.flwr.app.config]",
        )


def _package_folder(package: str) -> Path:
    """The folder of an installed package, found without running it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise EngineError(
            f"the package {package!r} is not installed", remedy="install grandrounds in this Python"
        )
    return Path(spec.origin).parent


def _project_table() -> dict[str, str]:
    """What Flower wants to know of a project; the bundle's hash, not this, says what ran."""
    try:
        version = metadata.version("grandrounds")
    except metadata.PackageNotFoundError:
        version = "0.0.0"
    about = {"description": "grandrounds as a Flower App", "license": "Apache-2.0"}
    return {"name": "grandrounds", "version": version} | about
