"""What differs between a study and an approval that a study of the same name has here."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from client.site import Site
from common.errors import GrandroundsError
from common.plan import Plan
from common.schema import dump_toml, read_toml

_ABSENT = "-"


def changed_rules(site: Site, plan: Plan) -> list[str]:
    """Say why a study needs an approval although one of its name has one; empty where none has.

    Plans are compared as they stand in their files, so that a plan which an earlier version of the
    program wrote is compared too.

    Args:
        site: The site's folder, read.
        plan: The study to be approved.
    """
    if site.plan_path(plan.digest) is not None:
        return []
    own = dict(_flat(_as_written(plan)))
    newest = _newest_of_name(site, plan.study.name)
    if newest is None:
        return []
    old = dict(_flat(newest))
    return [
        f"{key}: {old.get(key, _ABSENT)} -> {own.get(key, _ABSENT)}"
        for key in sorted(old.keys() | own.keys())
        if old.get(key, _ABSENT) != own.get(key, _ABSENT)
    ] or ["the program compiles the same rules to another digest: its version has changed"]


def _newest_of_name(site: Site, name: str) -> dict[str, Any] | None:
    paths = sorted((site.folder / "approved").glob("*.toml"), key=lambda p: p.stat().st_mtime_ns)
    for path in reversed(paths):
        values = _read(path)
        if values.get("name") == name:
            return values
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path, what="plan")
    except GrandroundsError:
        return {}


def _as_written(plan: Plan) -> dict[str, Any]:
    return tomllib.loads(dump_toml({**plan.study.rules(), "compiled": plan.noise}))


def _flat(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """Yield ('cohort.label.column', "'label'") for every value; a list is one value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", repr(value)
