"""From the hospitals left out to the figures a user reads."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.special import expit

from common.auc import AucEstimate, mean_estimate
from common.meta.models import pool
from common.metrics import Figures, mean_figures
from common.report.loho_values import LEAVE_ONE_OUT
from server.results import privacy_of, what_ran
from simulations.loho import ALONE, Judged, LeaveOneOutRun, LeftOut
from simulations.results import NOISE, same_algorithm, split_of
from simulations.world import scenario_of

_FEW = 10  # with fewer hospitals the spread between them is barely known


def loho_metrics(
    run: LeaveOneOutRun, run_dir: Path, *, engine: str, seconds: float
) -> dict[str, Any]:
    """Return everything `sim loho` says, as plain JSON values; the contract is in the README."""
    scenario = scenario_of(run.study)
    main_arm = scenario.loho.arms[0]
    plan = run.plans[main_arm]
    held_out = {site.name: _site(site) for site in run.sites}
    shots = sorted({number for site in run.sites for number in site.shots})
    return {
        **what_ran(
            plan, run_dir, main_arm=main_arm, split=split_of(run.study), seconds=seconds
        ),
        "kind": LEAVE_ONE_OUT,
        "engine": engine,
        "seed": scenario.seed,
        "shots": shots,
        "draws": scenario.loho.draws,
        "privacy": privacy_of(plan, noise=NOISE),
        "private_arms": [name for name, plan in run.plans.items() if plan.private],
        "held_out": held_out,
        "mean": {str(k): _means(run.sites, k) for k in shots},
        "pooled": {str(k): _pooled(run.sites, k) for k in shots},
        "centres": [_centre(site) for site in run.sites] + [
            {"name": h.name, "status": run.refused[h.name], "declared": h.declared}
            for h in run.hospitals
            if h.name in run.refused
        ],
        "calibration": {
            site.name: {arm: [list(row) for row in rows] for arm, rows in site.calibration.items()}
            for site in run.sites
        },
        "remarks": _remarks(run),
    }  # fmt: skip


def _site(site: LeftOut) -> dict[str, dict[str, Any]]:
    """Return shots -> arm -> figures, the adapted arms inside their own."""
    return {str(k): _nested({a: _judged(j) for a, j in arms.items()})
            for k, arms in site.shots.items()}  # fmt: skip


def _nested(flat: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    arms = [arm for arm in flat if arm not in ALONE and not arm.endswith("+adapted")]
    return {
        arm: dict(flat[arm]) | (
            {"adapted": flat[f"{arm}+adapted"]} if f"{arm}+adapted" in flat else {}
        )
        for arm in (*ALONE, *arms)
        if arm in flat
    }  # fmt: skip


def _judged(draws: Sequence[Judged]) -> dict[str, Any]:
    """Average figures over draws; the interval of the AUC is of the patients, not of the draws."""
    figures = _plain(mean_figures([d.figures for d in draws]))
    low, high = _interval(draws)
    thresholds = [t for t, _, _ in draws[0].benefit]
    benefit = [
        {
            "threshold": t,
            "value": _mean([d.benefit[i][1] for d in draws]),
            "treat_all": _mean([d.benefit[i][2] for d in draws]),
        }
        for i, t in enumerate(thresholds)
    ]
    defined = sum(d.figures.auc is not None for d in draws)
    return figures | {
        "auc_low": low,
        "auc_high": high,
        "draws": len(draws),
        "draws_with_auc": defined,
        "net_benefit": benefit,
    }


def _plain(figures: Figures) -> dict[str, Any]:
    values = figures.to_json()
    for name in ("patients", "c_index"):  # of a time to an event nobody is left out
        values.pop(name)
    return values


def _auc_of(draws: Sequence[Judged]) -> AucEstimate | None:
    """Return the mean AUC with its sampling error, or None where it is not defined."""
    known = [draw.auc for draw in draws if draw.auc is not None]
    return mean_estimate(known) if known else None


def _interval(draws: Sequence[Judged]) -> tuple[float | None, float | None]:
    found = _auc_of(draws)
    return (None, None) if found is None else found.interval()


def _means(sites: Sequence[LeftOut], shots: int) -> dict[str, Any]:
    """Average over hospitals, each of which counts the same."""
    flat: dict[str, list[Figures]] = {}
    for site in sites:
        for arm, draws in site.shots.get(shots, {}).items():
            flat.setdefault(arm, []).append(mean_figures([d.figures for d in draws]))
    return _nested({arm: _plain(mean_figures(rows)) for arm, rows in flat.items()})


def _pooled(sites: Sequence[LeftOut], shots: int) -> dict[str, Any]:
    """Pool the hospitals' AUCs on the logit scale by random effects (Snell et al. 2018)."""
    flat: dict[str, dict[str, Any]] = {}
    for arm in {a for site in sites for a in site.shots.get(shots, {})}:
        found = [_auc_of(site.shots[shots][arm]) for site in sites if shots in site.shots]
        rows = [row for row in found if row is not None]
        if rows:
            flat[arm] = _pooled_row(rows)
    return _nested(flat)


def _pooled_row(rows: Sequence[AucEstimate]) -> dict[str, Any]:
    estimates, variances = [row.logit for row in rows], [row.logit_variance for row in rows]
    pooled = pool(estimates, variances, method="PM", test="adhoc")
    return {
        "auc": _auc(pooled.mean),
        "ci_low": _auc(pooled.low),
        "ci_high": _auc(pooled.high),
        "prediction_low": _auc(pooled.prediction_low),
        "prediction_high": _auc(pooled.prediction_high),
        "tau2": pooled.tau2,
        "k": pooled.k,
        "method": f"{pooled.method}, logit scale",
    }


def _auc(value: float | None) -> float | None:
    return None if value is None else float(expit(value))


def _centre(site: LeftOut) -> dict[str, Any]:
    """Return the hospital's row of the TRIPOD-Cluster table."""
    return {
        "name": site.name,
        "status": "took part",
        "declared": site.declared,
        "patients": site.patients,
        "records": site.records,
        "outcomes": site.outcomes,
        "eligible": site.eligible,
        "missing": dict(site.missing),
        "notes": list(site.notes),
    }


def _remarks(run: LeaveOneOutRun) -> list[str]:
    remarks = _few_hospitals(run) + same_algorithm(
        run.plans.get("fedavg"), run.plans.get("reptile")
    )
    never, sometimes = [], []
    for site in run.sites:
        draws = [d for arms in site.shots.values() for found in arms.values() for d in found]
        known = [d.figures.auc is not None for d in draws]
        if not any(known):
            never.append(site.name)
        elif not all(known):
            sometimes.append(site.name)
    if never:
        remarks.append(
            f"The AUC is not defined at {', '.join(never)} (one class): there it is left out of "
            "means and random effects."
        )
    if sometimes:
        remarks.append(
            f"The AUC is not defined in some draws at {', '.join(sometimes)}, where the patients "
            "that remain have one outcome only; such draws are left out of its mean."
        )
    return remarks


def _few_hospitals(run: LeaveOneOutRun) -> list[str]:
    """Say that the spread between so few hospitals is barely known; those that entered count."""
    shots = {number for site in run.sites for number in site.shots}
    main = scenario_of(run.study).loho.arms[0]
    entered = {
        sum(_auc_of(site.shots[k][main]) is not None for site in run.sites if k in site.shots)
        for k in shots
    } - {0}
    if not entered or min(entered) >= _FEW:
        return []
    count = " to ".join(map(str, sorted({min(entered), max(entered)})))
    plural = "" if entered == {1} else "s"
    return [
        f"{count} hospital{plural} barely identif{'y' if plural else 'ies'} how much hospitals "
        "differ (tau): the prediction interval is itself uncertain."
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None
