"""A study of milliseconds and hospitals of forty invented patients, for the tests of both sides."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from client.desk.setup import Beginning, make_site
from client.policy import Policy
from client.site import CohortConfig, Site, write_site
from common.plan import Plan, compile_study
from common.schema import dump_toml
from common.study import Study, parse_study

PATIENTS = 40

_STUDY: dict[str, Any] = {
    "name": "small",
    "cohort": {
        "patient": "patient",
        "max_records": 2,
        "train_fraction": 0.6,
        "label": {"classes": ["well", "ill"]},
        "features": [
            {"name": "number", "range": [0, 1000], "center": 0, "scale": 1000},
            {"name": "pressure", "range": [60, 220]},
        ],
    },
    "learner": {"local_steps": 2, "learning_rate": 0.5},
    "rounds": {"count": 3, "quorum": 2, "deadline_s": 60.0},
    "privacy": {"sigma": 4.0, "delta": 1e-3, "clip": 1.0},
    "evaluation": {"bins": 4},
}


def small_study(**tables: Any) -> Study:
    """Return the small study with the given tables' keys changed; a table of None is left out."""
    values = dict(_STUDY)
    for name, table in tables.items():
        is_merged = isinstance(table, dict) and name in values
        values[name] = {**values[name], **table} if is_merged else table
    return parse_study({k: v for k, v in values.items() if v is not None}, origin="a test")


def small_plan(**tables: Any) -> Plan:
    """Return the compiled small study."""
    return compile_study(small_study(**tables))


def roomy(plan: Plan, **changes: Any) -> Policy:
    """Return a policy with room for the plan twice, and noise that repeats."""
    epsilon = 2 * plan.epsilon if plan.private else 1.0
    return Policy(**{"epsilon": epsilon, "delta": plan.delta, "noise_seed": 7, **changes})


def csv_text(*, seed: int = 0, patients: int = PATIENTS) -> str:
    """Return a table in which `number` tells the patient, and every third one has two records."""
    rng = np.random.default_rng([20, seed])
    lines = ["patient,number,pressure,label"]
    for number in range(patients):
        label = "ill" if rng.random() < 0.5 else "well"
        for _ in range(2 if number % 3 == 0 else 1):
            pressure = rng.normal(150 if label == "ill" else 120, 10)
            lines.append(f"p{number},{number},{pressure:.1f},{label}")
    return "\n".join(lines) + "\n"


def hospital(
    folder: Path,
    *plans: Plan,
    policy: Policy | None = None,
    text: str | None = None,
    declared: int = PATIENTS,
    seed: int = 0,
) -> Site:
    """Write the folder of a hospital that has approved the plans; its name is the folder's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "patients.csv").write_text(csv_text(seed=seed) if text is None else text)
    cohort = CohortConfig(
        name=folder.name,
        path=Path("patients.csv"),
        declared=declared,
        split_key="07" * 16,
        device="cpu",
    )
    return write_site(folder, cohort=cohort, policy=policy or roomy(plans[0]), plans=list(plans))


def made_site(folder: Path, *, text: str | None = None, seed: int = 0, **changes: Any) -> Path:
    """Make a site's folder as `site init` does, with keys; its patients lie beside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    data = folder.parent / f"{folder.name}.csv"
    data.write_text(csv_text(seed=seed) if text is None else text)
    values = {"name": folder.name, "declared": PATIENTS, "epsilon": 5.0, "device": "cpu"}
    make_site(folder, Beginning(data=data, **{**values, **changes}))
    return folder


def study_file(path: Path, **tables: Any) -> Path:
    """Write the small study, changed as `small_study` does, as the file a coordinator sends."""
    path.write_text(dump_toml(small_study(**tables).rules()))
    return path


def add_cohort(folder: Path, name: str, **values: Any) -> Path:
    """Add a cohort to a site's cohort.toml, its patients beside the folder; return their file."""
    data = folder.parent / f"{folder.name}-{name}.csv"
    data.write_text(values.pop("text", None) or csv_text(seed=1))
    change_cohort(folder, name, **{"path": str(data), "declared": PATIENTS, **values})
    return data


def change_cohort(folder: Path, name: str, **values: Any) -> None:
    """Change keys of a cohort in cohort.toml; without any the cohort is taken out."""
    path = folder / "cohort.toml"
    config = tomllib.loads(path.read_text())
    own = config if name == "main" else config.setdefault("cohorts", {}).setdefault(name, {})
    own.update(values)
    if not values:
        del config["cohorts"][name]
    path.write_text(dump_toml(config))
