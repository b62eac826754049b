"""From new hospitals' episodes to the figures a user reads."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.few_shot_spec import BASELINES, UNTRAINED, Method
from common.report.fewshot_values import FIGURES
from simulations.arms import NOTES
from simulations.fewshot.episodes import Judged, mean_and_half_width
from simulations.fewshot.run import FewShotRun, NewHospital
from simulations.fewshot.source_table import source_tables
from simulations.world import scenario_of

_RIVALS = ("scratch", "logistic_pixels", "logistic_inputs")
"""Baselines that a method must beat before it is worth its trouble, as far as they were run."""

_USES = {
    "prototype": "nearest mean of a class on its features",
    "nearest": "nearest labelled case on its features",
    "logistic": "logistic regression on its features",
    "svm": "support vector machine on its features",
    "fine_tune": "all weights fine-tuned to the labelled cases",
    "gradual": "fine-tuned from the last layer down",
    "adapt": "the learner's own inner steps on the labelled cases",
    "prior": "local adaptation with a prior around the shared weights",
    "scratch": "a model of the labelled cases alone, from random weights",
    "logistic_pixels": "logistic regression on the pixels of the labelled cases alone",
    "logistic_hog": "logistic regression on histograms of gradients, labelled cases alone",
    "nearest_pixels": "nearest labelled case by pixels",
    "logistic_inputs": "logistic regression on the labelled cases alone",
    "nearest_inputs": "nearest labelled case by inputs",
}


_BESIDE = {
    "hog": "histograms of gradients",
    "pixels": "the pixels",
    "coarse": "coarse pixels",
    "levels": "what lower layers see",
}


def few_shot_table(run: FewShotRun) -> dict[str, Any]:
    """Return what is known of the new hospitals: the part that `sim run` has too.

    Where all have two classes methods are compared by the AUC, else by the accuracy.
    """
    measure = "auc" if all(site.classes == 2 for site in run.sites) else "accuracy"
    held_out = {site.name: _site(site, run, measure) for site in run.sites}
    return {
        "measure": measure,
        "ways": run.rules.ways,
        "shots": [str(k) for k in run.rules.shots],
        "episodes": run.rules.episodes,
        "queries": run.rules.queries,
        "methods": {method.name: _method(method, run) for method in run.rules.methods},
        "held_out": held_out,
        "mean": {str(k): _means(held_out, str(k)) for k in run.rules.shots},
        **source_tables(run.sites),
    }


def _method(method: Method, run: FewShotRun) -> dict[str, Any]:
    """Return what a method is."""
    note = _USES[method.use]
    if method.arm == UNTRAINED:
        note = f"random weights; {note}"
    elif method.arm is not None:
        arm = scenario_of(run.study).arm_named(method.arm)
        note = f"{arm.note or NOTES[arm.kind]}; {note}"
    return {
        "arm": method.arm,
        "use": method.use,
        "beside": list(method.beside),
        "baseline": method.use in BASELINES,
        "epsilon": _epsilon(method, run),
        "note": note + "".join(f", with {_BESIDE[name]}" for name in method.beside),
    }


def _epsilon(method: Method, run: FewShotRun) -> float | None:
    plan = run.plans.get(method.arm or UNTRAINED)
    federated = method.arm is not None and method.arm != UNTRAINED
    return plan.epsilon if federated and plan is not None and plan.private else None


def _site(site: NewHospital, run: FewShotRun, measure: str) -> dict[str, Any]:
    return {
        "ways": site.ways,
        "classes": site.classes,
        "shots": {
            k: {
                method.name: _row(found[method.name])
                | {"epsilon": _epsilon(method, run), "over": _over(found, method.name, measure)}
                for method in run.rules.methods
            }
            for k, found in site.shots.items()
        },
    }


def _row(judged: Sequence[Judged]) -> dict[str, Any]:
    """Average over episodes; the spread is between the 5th and the 95th percentile of them."""
    accuracy, half = mean_and_half_width([one.accuracy for one in judged])
    low, high = np.quantile([one.accuracy for one in judged], [0.05, 0.95])
    row: dict[str, Any] = {
        "accuracy": accuracy,
        "recall": statistics.fmean(one.recall for one in judged),
        "ci95": half,
        "p5": float(low),
        "p95": float(high),
        "episodes": len(judged),
    }
    for name in ("auc", "wss95"):
        known = _figures(judged, name)
        if known:
            row[name], row[f"{name}_ci95"] = mean_and_half_width(known)
    return row


def _figures(judged: Sequence[Judged], name: str) -> list[float]:
    found = [getattr(one, name) for one in judged]
    return [value for value in found if value is not None]


def _over(found: Mapping[str, Sequence[Judged]], name: str, measure: str) -> dict[str, Any]:
    """Return by how much a method is better than each rival, episode by episode.

    All methods meet the same episodes, so their differences know more than their intervals do.
    """
    mine, rows = found[name], {}
    for rival in _RIVALS:
        if rival in found and rival != name:
            pairs = zip(mine, found[rival], strict=False)  # a costly method may have met fewer
            gaps = [getattr(a, measure) - getattr(b, measure) for a, b in pairs]
            difference, half = mean_and_half_width(gaps)
            rows[rival] = {"difference": difference, "ci95": half, "episodes": len(gaps)}
    return rows


def _means(held_out: Mapping[str, Any], shots: str) -> dict[str, Any]:
    """Average over new hospitals, each of which counts the same, and so do their intervals."""
    sites = [site["shots"][shots] for site in held_out.values()]
    return {name: _mean([site[name] for site in sites]) for name in sites[0]}


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"hospitals": len(rows), "epsilon": rows[0]["epsilon"]}
    for key, width in (("accuracy", "ci95"), ("auc", "auc_ci95"), ("wss95", "wss95_ci95")):
        if all(key in row for row in rows):
            found[key] = statistics.fmean(row[key] for row in rows)
            found[width] = sum(row[width] ** 2 for row in rows) ** 0.5 / len(rows)
    return found | {"recall": statistics.fmean(row["recall"] for row in rows)}


def remarks_of(table: Mapping[str, Any]) -> list[str]:
    """Say of each method where it is not better than what the few cases alone would do."""
    remarks = []
    for rival in _RIVALS:
        found = {
            name: _not_better(table, name, rival)
            for name, method in table["methods"].items()
            if not method["baseline"]
        }
        nowhere = [name for name, places in found.items() if places is None]
        partly = [f"{name} not at {', '.join(at)}" for name, at in found.items() if at]
        what = f"{rival} ({FIGURES[table['measure']]}, as far as these episodes tell)"
        if nowhere:
            remarks.append(f"Nowhere better than {what}: {', '.join(nowhere)}.")
        if partly:
            remarks.append(f"Not everywhere better than {what}: {'; '.join(partly)}.")
    return remarks


def _not_better(table: Mapping[str, Any], name: str, rival: str) -> list[str] | None:
    """List hospitals, with the numbers of cases, where the interval reaches 0; None if all do."""
    places, compared, not_better = [], 0, 0
    for site, found in table["held_out"].items():
        rows = {k: found["shots"][k][name]["over"].get(rival) for k in table["shots"]}
        known = {k: row for k, row in rows.items() if row is not None}
        worse = [k for k, row in known.items() if row["difference"] - row["ci95"] <= 0]
        compared, not_better = compared + len(known), not_better + len(worse)
        if worse:
            places.append(f"{site} ({' and '.join(worse)})")
    return None if compared and compared == not_better else places
