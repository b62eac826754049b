"""The app that Flower bundles: what is in it, and what it is told."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from common.errors import EngineError
from server.house.bundle import APP_CONFIG, write_app

ROOT = Path(__file__).parents[3]


def test_the_app_holds_the_installed_packages_and_the_projects_own_settings(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app")
    (app / "client" / "stale.py").write_text("")
    write_app(app)  # a second time replaces the first

    for package in ("server", "client", "common"):
        expected = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        copied = {path.relative_to(app) for path in (app / package).rglob("*") if path.is_file()}
        assert copied == expected
    written = tomllib.loads((app / "pyproject.toml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert written["tool"]["flwr"]["app"] == project["tool"]["flwr"]["app"]
    assert written["tool"]["flwr"]["app"]["config"] == dict(APP_CONFIG)


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no_such_package"):
        write_app(tmp_path, packages=["no_such_package"])
