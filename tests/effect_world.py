"""A study of an effect, and a trial's centres with the tables that it printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.plan import Plan, compile_study
from common.schema import dump_toml
from common.study import Study, parse_study

# Elmunzer et al. 2012, by centre: (no event, event) of indomethacin, then of placebo.
TRIAL = {
    "indiana": ((191, 15), (181, 26)),
    "kentucky": ((9, 1), (11, 1)),
    "michigan": ((66, 11), (62, 25)),
    "western": ((2, 0), (1, 0)),
}
DECLARED = {"indiana": 410, "kentucky": 20, "michigan": 160, "western": 3}

VALUES: dict[str, Any] = {
    "name": "effect",
    "cohort": {
        "patient": "id",
        "label": {"column": "outcome", "classes": ["none", "ill"]},
        "features": [
            {"name": "age", "range": [0, 100]},
            {"name": "rx", "kind": "category", "categories": ["drug", "placebo"]},
        ],
    },
    "effect": {"treatment": "rx", "treated": "drug", "control": "placebo"},
    "rounds": {"quorum": 2, "deadline_s": 60.0},
    "privacy": {"epsilon": 3.0, "delta": 2e-4},
}
MEAN = {"kind": "mean", "outcome": "age"}


def effect_study(**tables: Any) -> Study:
    """Return the study with tables' keys changed; a table of None is left out."""
    values = dict(VALUES)
    for name, table in tables.items():
        is_merged = isinstance(table, dict) and name in values and name != "effect"
        values[name] = {**values[name], **table} if is_merged else table
    return parse_study({k: v for k, v in values.items() if v is not None}, origin="a test")


def effect_plan(**tables: Any) -> Plan:
    """Return the compiled study."""
    return compile_study(effect_study(**tables))


def centre_csv(name: str) -> str:
    """Return the patients of one of the trial's centres."""
    lines = ["id,age,rx,outcome"]
    for arm, counts in zip(("drug", "placebo"), TRIAL[name], strict=True):
        for outcome, count in zip(("none", "ill"), counts, strict=True):
            lines += [f"{name}-{len(lines) + i},50,{arm},{outcome}" for i in range(count)]
    return "\n".join(lines) + "\n"


def study_with_centres(folder: Path, **tables: Any) -> Path:
    """Write the trial's centres, and the study file that simulates them; return the latter."""
    for name in TRIAL:
        (folder / f"{name}.csv").write_text(centre_csv(name))
    sites = {n: {"path": f"{n}.csv", "declared": d} for n, d in DECLARED.items()}
    simulation = {"sites": sites, **tables.pop("simulation", {})}
    path = folder / "effect.toml"
    path.write_text(dump_toml({**effect_study(**tables).rules(), "simulation": simulation}))
    return path
