"""This installation under audit: a small study of each model, and every way its engine can go."""

from __future__ import annotations

from typing import Any

from common.errors import StudyError
from common.learners import LEARNERS
from common.models import pick_device
from common.plan import compile_study
from common.study import Study, parse_study
from simulations.audit.engine import Way
from simulations.audit.subject import Subject

MODELS = ("mlp", "logistic", "conv4")

_FEATURES = [{"name": f"input{i}", "range": [-1, 1]} for i in range(16)]
_IMAGE = {"size": 16}
_LARGE: dict[str, dict[str, Any]] = {  # more than four million weights
    "mlp": {"hidden": [2048, 2048]},
    "conv4": {"width": 416},
}


def ways_of(model: str, learner: str, *, device: str, full: bool) -> list[Way]:
    """Return the ways of the engine that a plan of this model can take, the usual one first.

    Args:
        model: 'mlp', 'logistic' or 'conv4'.
        learner: Its name.
        device: As a site names it.
        full: Whether all of them, or the usual one alone.

    Raises:
        StudyError: there is no such model, learner or device.
    """
    if model not in MODELS:
        raise StudyError(f"--model is {model!r}", remedy=f"use one of {', '.join(MODELS)}")
    if learner not in LEARNERS:
        raise StudyError(f"--learner is {learner!r}", remedy=f"use one of {', '.join(LEARNERS)}")
    device = str(pick_device(device))
    usual = _subject(model, learner, device, records=1)
    releases = 4 if model == "conv4" else 50
    ways = [Way("one record", usual, 1, releases)]
    if full:
        ways.append(Way("two records", _subject(model, learner, device, records=2), 2, releases))
    if full and model in _LARGE:
        large = _subject(model, learner, device, records=2, **_LARGE[model])
        ways.append(Way("large model", large, 2, 2))
    return ways


def _subject(model: str, learner: str, device: str, *, records: int, **widths: Any) -> Subject:
    return Subject(compile_study(_study(model, learner, records, widths)), device=device)


def _study(model: str, learner: str, records: int, widths: dict[str, Any]) -> Study:
    """Return the study: a hundred steps in twenty-five rounds, sigma 1, one patient in twenty."""
    inputs = {"image": _IMAGE} if model == "conv4" else {"features": _FEATURES}
    steps: dict[str, Any] = {
        "name": learner,
        "local_steps": 4,
        "learning_rate": 0.1,
        "sampling_rate": 0.05,
    }
    if learner == "fedprox":
        steps["proximal"] = 0.1
    study = {
        "name": f"audit-of-{model}",
        "cohort": {
            "patient": "patient",
            "max_records": records,
            "train_fraction": 0.7,
            "label": {"classes": ["well", "ill"]},
            **inputs,
        },
        "model": {"name": model, **widths},
        "learner": steps,
        "rounds": {"count": 25},
        "privacy": {"sigma": 1.0, "delta": 1e-5, "clip": 1.0},
    }
    return parse_study(study, origin="the audit of this installation")
