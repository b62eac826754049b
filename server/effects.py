"""The effects that a run's hospitals released: by hospital, and pooled."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from common.effect_review import MEASURES, counted
from common.errors import DataError
from common.evaluation import ScoreHistogram, bin_edges
from common.meta.federated import pool_released
from common.meta.released import Released, means_effect
from common.meta.released_scores import auc_effect, oe_effect
from common.meta.released_tables import table_effect
from common.meta.values import on_both_scales, plain
from common.plan import Plan
from server.results import what_ran
from server.store import Store

EFFECT = "effect"  # what the metrics of such a run call themselves
SCORES = ("AUC", "OE")
_SPLIT = "none: every patient is in the release"


def measures_of(plan: Plan) -> tuple[str, ...]:
    """Return what can be pooled of a run's releases, the study's own measure first."""
    effect = plan.study.effect
    if effect is None:
        return SCORES if plan.histograms == 1 else SCORES[:1]
    if effect.kind == "mean":
        return ("MD",)
    return (effect.measure, *(m for m in ("OR", "RR", "RD") if m != effect.measure))


def effect_of(plan: Plan, counts: Any, *, sigma: float, measure: str) -> Released:
    """Return the effect that one hospital's release tells.

    Args:
        plan: Of the run.
        counts: The release, nested lists of `Plan.release_shape`.
        sigma: Standard deviation of the noise in each cell.
        measure: One of `measures_of`.
    """
    study, table = plan.study, np.array(counts, dtype=np.float64)
    if study.effect is None:
        hist = ScoreHistogram(bin_edges(study.evaluation.bins), table, sigma)
        return auc_effect(hist) if measure == "AUC" else oe_effect(hist)
    if study.effect.kind == "table":
        return table_effect(table[0], sigma=sigma, measure=measure)
    feature = next(f for f in study.cohort.features if f.name == study.effect.outcome)
    low, high = feature.range or (-1.0, 1.0)
    return means_effect(table[0], sigma=sigma, span=(high - low) / 2)


def effects_of(plan: Plan, store: Store, job: str, *, measure: str) -> dict[str, Released]:
    """Return what each hospital of a job released, by hospital."""
    return {
        site: effect_of(plan, counts, sigma=sigma, measure=measure)
        for site, (sigma, counts) in sorted(store.histograms(job).items())
    }


def effect_metrics(
    plan: Plan, run_dir: Path, job: str, *, engine: str, privacy: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Return everything that a run of an effect says, as plain JSON values.

    Nothing of it is exact: a simulation adds what it alone can see.
    """
    assert plan.study.effect is not None  # asked of such studies alone
    measure = plan.study.effect.measure
    with closing(Store(run_dir)) as store:
        found = effects_of(plan, store, job, measure=measure)
        tables, members, missed = store.histograms(job), store.members(job), store.missed(job)
    pooled, why = pooled_or_why(measure, found)
    sites = [
        {"name": m["site"], "declared": m["declared"], "status": m["status"], "table": None,
         "effect": None}
        | (_site(measure, found[m["site"]], tables[m["site"]]) if m["site"] in found else {})
        for m in members
    ]  # fmt: skip
    return {
        **what_ran(plan, run_dir, main_arm="", split=_SPLIT, seconds=seconds),
        "kind": EFFECT,
        "engine": engine,
        "job": job,
        "privacy": privacy,
        "measure": measure,
        "measure_name": MEASURES[measure],
        "counted": counted(plan),
        "sites": sites,
        "missed": missed,
        "pooled": pooled,
        "why": why,
        "exact": None,
        "remarks": [],
    }


def _site(measure: str, found: Released, table: tuple[float, Any]) -> dict[str, Any]:
    return {
        "table": {"sigma": table[0], "treated": table[1][0][0], "control": table[1][0][1]},
        "effect": effect_values(measure, found),
    }


def effect_values(measure: str, found: Released) -> dict[str, Any]:
    """Return one hospital's effect as plain JSON values; what is open or too noisy is None."""
    ends = {"estimate": found.value, "ci_low": found.low, "ci_high": found.high}
    se = {"sampling_se": found.sampling**0.5, "noise_se": found.noise**0.5}
    said = {} if found.value is not None else dict.fromkeys(se)
    return dict(
        plain({**on_both_scales(measure, ends), **se, **said, "why": found.why, "note": found.note})
    )


def pooled_or_why(measure: str, found: Mapping[str, Released]) -> tuple[dict[str, Any] | None, str]:
    """Return the pooled effect, or None and why there is none."""
    try:
        return pool_released(measure, found), ""
    except DataError as error:
        return None, error.message
