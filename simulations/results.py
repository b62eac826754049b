"""From a comparison to the figures a user reads: one value for terminal, file and report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from common.cohort.split import SPLIT_LABELS
from common.evaluation import ScoreHistogram, bin_edges, derive
from common.meta_analysis import pool_auc
from common.metrics import Figures, mean_figures
from common.plan import Plan
from common.privacy import accounting
from common.privacy.engine import prv_epsilon
from common.scenario import FEDERATED
from common.study import Study
from server.store import Store
from simulations.arms import NOTES
from simulations.runner import Comparison, Outcome, scenario_of

SCHEMA = 1
PACKAGES = ("grandrounds", "flwr", "torch", "opacus", "dp-accounting")


def metrics_of(
    comparison: Comparison, run_dir: Path, *, engine: str, seconds: float
) -> dict[str, Any]:
    """Return everything the run says, as plain JSON values; the contract is in the README."""
    study, main = comparison.study, comparison.main_arm
    scenario, plan = scenario_of(study), comparison.plans[main]
    store = Store(run_dir)
    released = _released(comparison, store)
    result = {
        **what_ran(study, plan, run_dir, main_arm=main, seconds=seconds),
        "engine": engine,
        "seeds": scenario.seeds,
        "privacy": privacy_of(plan, spent=_spent(comparison, store)),
        "arms": {name: _arm(comparison, name) for name in comparison.outcomes},
        "sites": [_site(comparison, h.name, h.declared, released) for h in comparison.hospitals],
        "curves": comparison.curves,
        "pooled_private": _pooled(released),
        "remarks": same_algorithm(comparison.plans.get("fedavg"), comparison.plans.get("reptile")),
        "published": scenario.published and scenario.published.model_dump(mode="json"),
    }
    store.close()
    return result


def what_ran(
    study: Study, plan: Plan, run_dir: Path, *, main_arm: str, seconds: float
) -> dict[str, Any]:
    """Return what every run's metrics begin with."""
    scenario = scenario_of(study)
    return {
        "schema": SCHEMA,
        "run_dir": str(run_dir),
        "study": study.name,
        "title": study.title or study.name,
        "description": study.description,
        "study_digest": plan.digest,
        "seconds": round(seconds, 2),
        "rounds": study.rounds.count,
        "seed": scenario.seed,
        "main_arm": main_arm,
        "split": SPLIT_LABELS[scenario.split],
        "versions": {name: version(name) for name in PACKAGES},
    }


def same_algorithm(fedavg: Plan | None, reptile: Plan | None) -> list[str]:
    """Say in words where Reptile and FedAvg are one algorithm, so that equal rows do not puzzle."""
    if fedavg is None or reptile is None or fedavg.sigma != reptile.sigma:
        return []
    server = reptile.study.server
    if (server.optimizer, server.learning_rate, server.weights) != ("sgd", 1.0, "declared"):
        return []
    return [
        "Reptile and FedAvg are the same algorithm here: the server takes the mean of the "
        "hospitals' deltas, weighted by declared size, with a step of 1."
    ]


def privacy_of(plan: Plan, *, spent: float | None = None) -> dict[str, Any]:
    """Return the promise of a plan in plain values.

    Args:
        plan: The compiled study.
        spent: The largest epsilon that a site's receipt named, where it is more than the plan's: a
            round repeated after a crash is paid twice.
    """
    study, rounds = plan.study, plan.study.rounds.count
    common = {
        "private": plan.private,
        "unit": accounting.UNIT,
        "sampling_rate": study.learner.sampling_rate,
        "steps": plan.steps,
    }
    if not plan.private:
        return common | {
            "noise": None,
            **dict.fromkeys(("epsilon", "delta", "adjacency", "accountant", "clip", "epsilon_prv")),
            "sigma": 0.0,
            "evaluation_sigma": 0.0,
            "epsilon_by_round": [],
            "releases": [],
            "statement": "not private: the study has no privacy table",
        }
    training, evaluation = plan.training_price(rounds=rounds), plan.evaluation_price()
    epsilon = max(plan.epsilon, spent or 0.0)
    return common | {
        "noise": "seeded generator (simulation; a real site uses a cryptographic source)",
        "epsilon": epsilon,
        "delta": plan.delta,
        "adjacency": accounting.ADJACENCY,
        "accountant": f"{accounting.ACCOUNTANT} {version('dp-accounting')}",
        "sigma": plan.sigma,
        "clip": plan.clip,
        "evaluation_sigma": plan.evaluation_sigma,
        "epsilon_prv": prv_epsilon([training], delta=plan.delta),
        "epsilon_by_round": [plan.epsilon_after(r) for r in range(1, rounds + 1)],
        "releases": [
            _release("weight delta", plan, training, count=rounds, sigma=plan.sigma),
            _release(
                "evaluation histogram", plan, evaluation, count=1, sigma=plan.evaluation_sigma
            ),
        ],
        "statement": f"({epsilon:.3g}, {plan.delta:g})-differential privacy for each patient of "
        f"each hospital, {accounting.ADJACENCY}; a patient either trains or evaluates",
    }


def _release(what: str, plan: Plan, event: Any, *, count: int, sigma: float) -> dict[str, Any]:
    cost = accounting.epsilon([event], delta=plan.delta)
    return {"what": what, "part": event.part, "count": count, "sigma": sigma, "epsilon": cost}


def _spent(comparison: Comparison, store: Store) -> float | None:
    job = comparison.outcomes[comparison.main_arm][0].job
    if job is None:
        return None
    return max((r["epsilon"] for r in store.replies(job) if r["epsilon"] is not None), default=None)


def _arm(comparison: Comparison, name: str) -> dict[str, Any]:
    outcomes, plan = comparison.outcomes[name], comparison.plans[name]
    arm = scenario_of(comparison.study).arm_named(name)
    releases = arm.kind in FEDERATED or arm.kind == "pooled"
    private = plan.private and arm.kind != "majority" and arm.follows_privacy
    note = NOTES[arm.kind] if not (releases and not private) else f"{NOTES[arm.kind]}; not private"
    return {
        "kind": arm.kind,
        "note": note,
        "private": private,
        "epsilon": plan.epsilon if private else None,
        **_summary([[r.shared for r in o.sites.values()] for o in outcomes]),
        "adapted": _summary([[r.adapted for r in o.sites.values()] for o in outcomes]),
    }


def _summary(seeds: Sequence[Sequence[Figures]]) -> dict[str, float | None]:
    """Average over hospitals, then over seeds; the spread is over seeds."""
    means = [mean_figures(sites) for sites in seeds]
    weighted = [mean_figures(sites, weighted=True) for sites in seeds]
    return {
        "mean_auc": _mean([m.auc for m in means]),
        "mean_accuracy": _mean([m.accuracy for m in means]),
        "weighted_accuracy": _mean([m.accuracy for m in weighted]),
        "mean_brier": _mean([m.brier for m in means]),
        "mean_log_loss": _mean([m.log_loss for m in means]),
        "sd_auc": _sd([m.auc for m in means]),
        "sd_accuracy": _sd([m.accuracy for m in means]),
        "sd_brier": _sd([m.brier for m in means]),
    }


def _site(
    comparison: Comparison, name: str, declared: int, released: Mapping[str, Any]
) -> dict[str, Any]:
    train, holdout = comparison.patients.get(name, (None, None))
    taking_part = name not in comparison.left_out
    return {
        "name": name,
        "declared": declared,
        "status": comparison.left_out.get(name, "took part"),
        "train_patients": train,
        "holdout_patients": holdout,
        "arms": {
            arm: _at_site(outcomes, name)
            for arm, outcomes in comparison.outcomes.items()
            if taking_part
        },
        "private": released.get(name),
    }


def _at_site(outcomes: Sequence[Outcome], name: str) -> dict[str, Any]:
    """Return an arm's mean figures over seeds at one hospital."""
    shared = mean_figures([o.sites[name].shared for o in outcomes])
    adapted = mean_figures([o.sites[name].adapted for o in outcomes])
    return _rounded(shared) | {"adapted": _rounded(adapted)}


def _rounded(figures: Figures) -> dict[str, Any]:
    values = figures.to_json()
    values.pop("patients")
    return values


def _released(comparison: Comparison, store: Store) -> dict[str, Any]:
    """Return what each hospital's noisy histogram of the main arm's first seed says."""
    job = comparison.outcomes[comparison.main_arm][0].job
    if job is None:
        return {}
    edges = bin_edges(comparison.study.evaluation.bins)
    found = {}
    for site, (sigma, counts) in store.histograms(job).items():
        table = np.array(counts)
        derived = derive(ScoreHistogram(edges=edges, counts=table, sigma=sigma))
        if len(table) == 1:
            derived["histogram"] = {
                "edges": edges.tolist(),
                "negative": table[0, 0].tolist(),
                "positive": table[0, 1].tolist(),
                "sigma": sigma,
            }
        found[site] = derived
    return found


def _pooled(released: Mapping[str, Any]) -> dict[str, Any] | None:
    rows = [released[name] for name in sorted(released)]
    columns = ([r[key] for r in rows] for key in ("auc", "auc_low", "auc_high"))
    return pool_auc(*columns) if rows else None


def _known(values: Sequence[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return statistics.fmean(known) if known else None


def _sd(values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return statistics.stdev(known) if len(known) > 1 else None
