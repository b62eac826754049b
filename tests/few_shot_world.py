"""Three hospitals of invented pictures, each with diseases of its own, for few-shot tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.embedded import find_study
from common.study import Study, load_study, parse_study

SIZE = 16
WAYS = {"north": 3, "south": 2, "west": 4}


def write_pictures(folder: Path, *, per_class: int = 12, noise: float = 25.0) -> Path:
    """Write an archive a hospital: a class is where a bright square is; two pictures a patient."""
    rng = np.random.default_rng(5)
    for name, ways in WAYS.items():
        labels = np.repeat(np.arange(ways), 2 * per_class)
        images = rng.normal(60, noise, size=(len(labels), SIZE, SIZE))
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 2)
            image[8 * row + 2 : 8 * row + 7, 8 * column + 2 : 8 * column + 7] += 60
        np.savez_compressed(
            folder / f"{name}.npz",
            images=images.clip(0, 255).astype(np.uint8),
            labels=labels,
            patient=np.array([f"{name}{i // 2}" for i in range(len(labels))]),
        )
    return folder


def few_shot_study(data: Path, *, methods: list[Any] | None = None, **changes: Any) -> Study:
    """Return a study over these hospitals; `changes` go into its few-shot table."""
    values = load_study(find_study("breast_cancer")).model_dump(mode="json")
    hospitals = {
        name: {
            "path": f"{name}.npz",
            "classes": [f"{name} {i}" for i in range(ways)],
            "declared": 12 * ways,
        }
        for name, ways in WAYS.items()
    }
    values["name"] = "pictures"
    values["cohort"] = {
        "patient": "patient",
        "max_records": 2,
        "min_declared": 10,
        "label": {"column": "labels", "own": True, "ways": 4},
        "image": {"size": SIZE},
    }
    values |= {
        "model": {"name": "mlp", "hidden": [8]},
        "learner": {"name": "fedrep", "local_steps": 2, "head_steps": 2, "learning_rate": 0.3},
        "rounds": {"count": 2, "quorum": 2},
        "privacy": None,
        "simulation": {
            "arms": ["local", "fedrep"],
            "arm": {"reptile": {"kind": "reptile", "private": False}},
            "data": str(data),
            "partition": {"source": "archives", "hospitals": hospitals},
            "fewshot": {
                "shots": [1, 3],
                "episodes": 4,
                "queries": 5,
                "methods": methods or ["fedrep+prototype", "untrained+logistic"],
                **changes,
            },
        },
    }
    return parse_study(values, origin="test")
