"""From a comparison to the figures a user reads: one value for terminal, file and report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.cohort.split import SPLIT_LABELS
from common.metrics import Figures, mean_figures
from common.plan import Plan
from common.scenario import FEDERATED
from common.study import Study
from common.survival import c_index
from server.results import pooled_of, privacy_of, released_of, spent_of, what_ran
from server.store import Store
from simulations.arms import NOTES
from simulations.fewshot.table import few_shot_table, remarks_of
from simulations.runner import Comparison, Outcome
from simulations.world import scenario_of

NOISE = "seeded generator (simulation; a real site uses a cryptographic source)"


def metrics_of(
    comparison: Comparison, run_dir: Path, *, engine: str, seconds: float
) -> dict[str, Any]:
    """Return everything the run says, as plain JSON values; the contract is in the README."""
    study, main = comparison.study, comparison.main_arm
    scenario, plan = scenario_of(study), comparison.plans[main]
    store = Store(run_dir)
    job = comparison.outcomes[main][0].job
    released = released_of(comparison.plans[main], store, job) if job else {}
    few_shot = comparison.few_shot and few_shot_table(comparison.few_shot)
    result = {
        **what_ran(plan, run_dir, main_arm=main, split=split_of(study), seconds=seconds),
        "engine": engine,
        "seed": scenario.seed,
        "seeds": scenario.seeds,
        "privacy": privacy_of(plan, noise=NOISE, spent=spent_of(store, job) if job else None),
        "arms": {name: _arm(comparison, name) for name in comparison.outcomes},
        "sites": [_site(comparison, h.name, h.declared, released) for h in comparison.hospitals],
        "curves": comparison.curves,
        "retrieval": comparison.retrieval,
        "fewshot": few_shot,
        "pooled_private": pooled_of(released),
        "remarks": same_algorithm(comparison.plans.get("fedavg"), comparison.plans.get("reptile"))
        + (remarks_of(few_shot) if few_shot else []),
        "published": scenario.published and scenario.published.model_dump(mode="json"),
    }
    store.close()
    return result


def split_of(study: Study) -> str:
    """Return how patients were parted, in words."""
    return SPLIT_LABELS[scenario_of(study).split]


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


def _arm(comparison: Comparison, name: str) -> dict[str, Any]:
    outcomes, plan = comparison.outcomes[name], comparison.plans[name]
    arm = scenario_of(comparison.study).arm_named(name)
    releases = arm.kind in FEDERATED or arm.kind == "pooled"
    private = plan.private and arm.kind != "majority" and arm.follows_privacy
    notes = [NOTES[arm.kind], arm.note, "not private" if releases and not private else ""]
    return {
        "kind": arm.kind,
        "note": "; ".join(filter(None, notes)),
        "private": private,
        "epsilon": plan.epsilon if private else None,
        **_form(outcomes, "shared"),
        "adapted": _form(outcomes, "adapted"),
    }


def _form(outcomes: Sequence[Outcome], form: str) -> dict[str, float | None]:
    """Return an arm's figures in one form, 'shared' or 'adapted'."""
    found = [[getattr(r, form) for r in o.sites.values()] for o in outcomes]
    return _summary(found) | {"pooled_c_index": _mean([_pooled(o, form) for o in outcomes])}


def _pooled(outcome: Outcome, form: str) -> float | None:
    """Return the concordance index over all hospitals' patients, pairs of two hospitals too."""
    sites = [result.risks for result in outcome.sites.values() if result.risks is not None]
    if not sites:
        return None
    codes, risks, weights = (
        np.concatenate([getattr(site, name) for site in sites])
        for name in ("codes", form, "weights")
    )
    return c_index(codes, risks, weights)


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
        "mean_kappa": _mean([m.kappa for m in means]),
        "mean_c_index": _mean([m.c_index for m in means]),
        "sd_auc": _sd([m.auc for m in means]),
        "sd_accuracy": _sd([m.accuracy for m in means]),
        "sd_brier": _sd([m.brier for m in means]),
        "sd_c_index": _sd([m.c_index for m in means]),
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
        "notes": list(comparison.notes.get(name, ())),
    }


def _at_site(outcomes: Sequence[Outcome], name: str) -> dict[str, Any]:
    """Return an arm's mean figures at one hospital, over the seeds in which it took part.

    A partition draws a hospital's size anew for each seed, and may draw one too small or too large.
    """
    here = [o.sites[name] for o in outcomes if name in o.sites]
    shared = mean_figures([result.shared for result in here])
    adapted = mean_figures([result.adapted for result in here])
    return _rounded(shared) | {"adapted": _rounded(adapted)}


def _rounded(figures: Figures) -> dict[str, Any]:
    values = figures.to_json()
    values.pop("patients")
    return values


def _known(values: Sequence[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return statistics.fmean(known) if known else None


def _sd(values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return statistics.stdev(known) if len(known) > 1 else None
