"""Everything that a run of `sim fewshot` says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.few_shot_spec import UNTRAINED
from common.report.fewshot_values import FEW_SHOT
from server.results import privacy_of, what_ran
from simulations.fewshot.run import FewShotRun, NewHospital
from simulations.fewshot.table import few_shot_table, remarks_of
from simulations.results import NOISE, split_of
from simulations.world import scenario_of


def few_shot_metrics(
    run: FewShotRun, run_dir: Path, *, engine: str, seconds: float
) -> dict[str, Any]:
    """Return everything `sim fewshot` says, as plain JSON values; the contract is in the README."""
    scenario = scenario_of(run.study)
    main = run.rules.arms[0] if run.rules.arms else UNTRAINED
    plan, table = run.plans[main], few_shot_table(run)
    return {
        **what_ran(plan, run_dir, main_arm=main, split=split_of(run.study), seconds=seconds),
        "kind": FEW_SHOT,
        "engine": engine,
        "seed": scenario.seed,
        "privacy": privacy_of(plan, noise=NOISE),
        "private_arms": [name for name in run.rules.arms if run.plans[name].private],
        **table,
        "centres": [_centre(site) for site in run.sites] + [
            {"name": h.name, "status": run.refused[h.name], "declared": h.declared}
            for h in run.hospitals
            if h.name in run.refused
        ],
        "remarks": remarks_of(table),
    }  # fmt: skip


def _centre(site: NewHospital) -> dict[str, Any]:
    return {
        "name": site.name,
        "status": "was new",
        "declared": site.declared,
        "patients": site.patients,
        "records": site.records,
        "classes": site.classes,
        "notes": list(site.notes),
    }
