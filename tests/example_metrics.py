"""An invented run's metrics, for the tests of the report and the model card."""

from __future__ import annotations

import math
import random
from typing import Any

HEART = {"cleveland": 300, "hungarian": 290, "switzerland": 120, "va": 200}


def example(sizes: dict[str, int] | None = None, *, rounds: int = 4, seeds: int = 20) -> Any:
    """Metrics shaped as a run prints them, with invented figures; one hospital is left out."""
    rng = random.Random(7)
    sizes = sizes or HEART
    arm_figures = {
        "reptile": ((0.840, 0.811), (0.846, 0.841)),
        "majority": ((0.500, 0.716), None),
        "local": ((0.850, 0.841), None),
        "pooled": ((0.836, 0.828), (0.838, 0.833)),
        "fedavg": ((0.839, 0.814), (0.843, 0.838)),
    }
    out = {"name": "riverside", "declared": 12, "status": "left out: declared 12, below 50"}
    out |= {"train_patients": None, "holdout_patients": None, "arms": {}, "private": None}
    sites = [_site(rng, name, size, list(arm_figures)) for name, size in sizes.items()]
    return {
        "schema": 1,
        "run_dir": "runs/example",
        "study": "heart",
        "title": "Coronary disease in four hospitals",
        "study_digest": "9f2c" * 16,
        "seconds": 41.27,
        "rounds": rounds,
        "seed": 0,
        "seeds": seeds,
        "engine": "inprocess",
        "main_arm": "reptile",
        "split": "keyed hash of the patient id",
        "versions": {"grandrounds": "0.1.0", "torch": "2.15.0", "opacus": "1.6.0"},
        "privacy": _privacy(rounds),
        "arms": {name: _arm(*forms, seeds) for name, forms in arm_figures.items()},
        "sites": [*sites, out],
        "curves": {"reptile": {s["name"]: _curve(rng, rounds) for s in sites}},
        "pooled_private": {"auc": 0.82, "low": 0.74, "high": 0.88, "prediction_low": 0.61}
        | {"prediction_high": 0.93, "tau2": 0.11, "k": len(sites), "method": "DerSimonian-Laird"},
    }


def _privacy(rounds: int) -> dict[str, Any]:
    return {
        "private": True,
        "epsilon": 1.0,
        "delta": 3e-4,
        "unit": "patient",
        "adjacency": "add/remove one patient",
        "accountant": "PLD (dp-accounting 0.6.0)",
        "sigma": 9.1,
        "clip": 1.0,
        "sampling_rate": 1.0,
        "steps": 5 * rounds,
        "epsilon_prv": 1.01,
        "statement": "Whoever sees all that the hospitals released learns little about a patient.",
        "epsilon_by_round": [math.sqrt((r + 1) / rounds) for r in range(rounds)],
        "noise": "seeded generator (simulation only; a real site uses a cryptographic source)",
        "releases": [
            {"what": "weight delta", "part": "train", "count": rounds, "sigma": 9.1, "epsilon": 1},
            {"what": "evaluation histogram", "part": "holdout", "count": 1, "sigma": 2.9}
            | {"epsilon": 0.98},
        ],
    }


def _arm(shared: Any, adapted: Any, seeds: int) -> dict[str, Any]:
    def form(pair: Any) -> dict[str, Any]:
        auc, accuracy = pair or (None, None)
        spread = None if seeds == 1 or pair is None else 0.035
        row = {"mean_auc": auc, "mean_accuracy": accuracy, "weighted_accuracy": accuracy}
        return row | {"mean_brier": 0.14, "sd_auc": spread, "sd_accuracy": spread and spread / 2}

    private = shared == (0.840, 0.811)
    note = "one line on what this arm is"
    row = form(shared) | {"epsilon": 1.0 if private else None, "private": private, "note": note}
    return row | {"adapted": form(adapted)}


def _curve(rng: random.Random, rounds: int) -> list[list[float | None]]:
    end = rng.uniform(0.72, 0.9)
    return [[r, end - (end - 0.5) * math.exp(-1.3 * r) + rng.gauss(0, 0.004)]
            for r in range(rounds + 1)]  # fmt: skip


def _site(rng: random.Random, name: str, declared: int, arms: list[str]) -> dict[str, Any]:
    def row() -> dict[str, Any]:
        return {"auc": rng.uniform(0.7, 0.9), "accuracy": rng.uniform(0.7, 0.88), "brier": 0.14}

    holdout = declared // 3
    private: dict[str, Any] = {}
    middles = {"auc": 0.82, "accuracy": 0.8, "sensitivity": 0.78, "specificity": 0.79}
    middles |= {"brier": 0.15, "calibration_slope": 0.94, "calibration_intercept": -0.06}
    for key, middle in middles.items():
        value, half = middle + rng.uniform(-0.06, 0.06), 1.1 / math.sqrt(holdout)
        private |= {key: value, f"{key}_low": value - half, f"{key}_high": value + half}
    private["auc_high"] = min(private["auc_high"], 0.99)
    private["histogram"] = _histogram(rng, holdout)
    private["net_benefit"] = [_benefit(t / 20) for t in range(1, 17)]
    figures_of = {arm: row() | {"adapted": row() if arm == "reptile" else None} for arm in arms}
    site = {"name": name, "declared": declared, "status": "took part", "arms": figures_of}
    site |= {"train_patients": declared - holdout, "holdout_patients": holdout}
    return site | {"private": private}


def _histogram(rng: random.Random, holdout: int) -> dict[str, Any]:
    edges, sigma = [b / 10 for b in range(11)], 2.9
    weights = [2.2, 1.6, 1.1, 0.8, 0.7, 0.7, 0.8, 1.0, 1.3, 1.8]
    counts = [holdout * w / sum(weights) for w in weights]
    return {
        "edges": edges,
        "sigma": sigma,
        "positive": [c * (b + 0.5) / 10 + rng.gauss(0, sigma) for b, c in enumerate(counts)],
        "negative": [c * (9.5 - b) / 10 + rng.gauss(0, sigma) for b, c in enumerate(counts)],
    }


def _benefit(threshold: float) -> dict[str, float]:
    odds, share = threshold / (1 - threshold), 0.45
    value = 0.88 * share * (1 - threshold**2) - (1 - share) * odds * 0.3 * (1 - threshold)
    row = {"threshold": threshold, "value": value, "low": value - 0.06, "high": value + 0.06}
    return row | {"treat_all": share - (1 - share) * odds}
