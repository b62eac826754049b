"""A study of survival that runs in milliseconds, and invented patients for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from common.cohort.parts import Part
from common.survival import encode


def survival_study(**tables: Any) -> dict[str, Any]:
    """Return the study's values, with the given tables' keys changed; one of None is left out."""
    values: dict[str, Any] = {
        "name": "survival",
        "cohort": {
            "patient": "patient",
            "train_fraction": 0.6,
            "label": {
                "column": "days",
                "event": "died",
                "classes": ["alive", "dead"],
                "edges": [100, 200, 400],
                "horizon": 200,
            },
            "features": [
                {"name": "number", "range": [0, 1000], "center": 0, "scale": 1000},
                {"name": "pressure", "range": [60, 220]},
            ],
        },
        "learner": {"name": "fedavg", "local_steps": 2, "learning_rate": 0.5},
        "rounds": {"count": 2, "quorum": 2, "deadline_s": 60.0},
        "privacy": {"sigma": 4.0, "delta": 1e-3, "clip": 1.0},
        "evaluation": {"bins": 4},
    }
    for name, table in tables.items():
        merge = isinstance(table, dict) and name in values
        values[name] = {**values[name], **table} if merge else table
    return {k: v for k, v in values.items() if v is not None}


def follow_up(pressure: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return whole days and whether each ended with death: earlier with high pressure."""
    death = rng.exponential(300 * np.exp(-(pressure - 130) / 30))
    seen = rng.uniform(50, 600, len(pressure))
    return np.minimum(death, seen).astype(np.int64), (death <= seen).astype(np.int64)


def rows(count: int, *, seed: int) -> Part:
    """Return patients of one record each, as the engine takes them."""
    rng = np.random.default_rng([40, seed])
    pressure = rng.normal(130, 20, count)
    x = np.stack([rng.random(count), (pressure - 140) / 80], axis=1).astype(np.float32)
    y = encode(*follow_up(pressure, rng))
    return Part(torch.from_numpy(x), torch.from_numpy(y), torch.arange(count), count)


def csv_text(*, seed: int = 0, patients: int = 60, part: bool = False) -> str:
    """Return a table of patients; `part` adds a split, every third patient for testing."""
    rng = np.random.default_rng([41, seed])
    pressure = rng.normal(130, 20, patients)
    days, died = follow_up(pressure, rng)
    lines = ["patient,number,pressure,days,died" + ",part" * part]
    for n in range(patients):
        own = "test" if n % 3 == 0 else "train"
        cells = [f"p{n}", f"{n}", f"{pressure[n]:.1f}", f"{days[n]}.0", f"{died[n]}.0"]
        lines.append(",".join([*cells, *([own] if part else [])]))
    return "\n".join(lines) + "\n"
