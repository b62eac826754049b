"""A hospital's own report: what its patients have spent, on what, and what it got for it.

Everything on it is for the hospital alone: it holds exact figures and what passed between the
hospital and every coordinator. `site_page.html` only lays it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.privacy.accounting import ADJACENCY, UNIT
from common.report.figures_site import FORMS, burn_down, calibration_here
from common.report.layout import fill, numbered
from common.report.site_values import CohortRow, ModelRow, SiteValues, StudyRow
from common.report.values import DASH, finite, show

KEPT = "exact; does not leave the hospital"


def site_html(values: SiteValues) -> str:
    """Write a hospital's own report as one HTML file with its styles and pictures inside.

    Args:
        values: See `common.report.site_values`; a missing figure is shown as an en dash.

    Returns:
        The whole file as text; equal values give equal text.
    """
    graded, survival = (_has(name, values["models"]) for name in ("kappa", "c_index"))
    return fill(
        "site_page.html",
        {"title": f"Site report: {values['site']}", "study": values["site"]},
        verdict=budget_line(values),
        alarms=alarms(values),
        ledger=ledger_line(values),
        budget=_budget_rows(values),
        cohorts=[_cohort_row(row) for row in values["cohorts"]],
        studies=[_study_row(row, values) for row in values["studies"]],
        models=[_model_rows(m, graded=graded, survival=survival) for m in values["models"]],
        graded=graded,
        survival=survival,
        pictures=_pictures(values),
        kept=KEPT,
        footer=[("Site", values["site"]), ("Made", values["made"])],
        rebuild=f"grandrounds site report {values['folder']}",
    )


def budget_line(values: SiteValues) -> str:
    """Say in one sentence what a patient has spent and what is left."""
    spent, limit = finite(values["spent"].get("epsilon")), values["limit"]["epsilon"]
    used = [row for row in values["studies"] if row["epsilon"] != 0]
    over = "one study" if len(used) == 1 else f"{len(used)} studies"
    if spent is None:
        return (
            f"What a patient of {values['site']} has spent is not bounded: "
            "a study without a privacy guarantee has used the patients."
        )
    if not used:
        return f"No patient of {values['site']} has spent anything of epsilon {limit:.3g}."
    held = finite(values["held"].get("epsilon")) or spent
    kept = f"{held - spent:.3g} more is held for what was begun; " if held - spent >= 5e-4 else ""
    return (
        f"A patient of {values['site']} has spent at most epsilon {spent:.3g} of {limit:.3g} "
        f"(at delta {values['spent']['delta']:.2g}), in {over}; "
        f"{kept}{max(limit - held, 0.0):.3g} is left."
    )


def alarms(values: SiteValues) -> list[str]:
    """List what must not be overlooked, the gravest first."""
    found = []
    if not values["ledger"].get("ok"):
        found.append(
            f"THE LEDGER DOES NOT VERIFY: {values['ledger'].get('what') or 'no reason given'}. "
            "Figures on this page may be wrong; let no round be answered before it is reconciled."
        )
    if values["ledger"].get("ok") and values["ledger"].get("behind"):
        found.append(
            f"THE LEDGER IS BEHIND: {values['ledger']['behind']}. More may have been spent than "
            "this page says, and no round is answered before it is reconciled."
        )
    if values["noise_seed"] is not None:
        found.append(
            f"SEEDED NOISE: policy.toml has noise_seed = {values['noise_seed']}. Who knows the "
            "seed can take the noise away, so no epsilon on this page protects anybody. Remove "
            "noise_seed before a patient's data is used."
        )
    if values["paused"]:
        found.append("This site is paused: it answers no round until it is resumed.")
    return found


def ledger_line(values: SiteValues) -> str:
    """Say whether the ledger's chain holds."""
    number = values["ledger"].get("entries")
    if not values["ledger"].get("ok"):
        return f"The ledger of {show(number, 0)} entries does not verify."
    return (
        f"The ledger verifies: its {show(number, 0)} entries are unedited, complete and in order."
    )


def _budget_rows(values: SiteValues) -> list[tuple[str, str]]:
    spent, limit = values["spent"], values["limit"]
    epsilon, delta = finite(spent.get("epsilon")), finite(spent.get("delta"))
    held = finite(values["held"].get("epsilon"))
    return [
        ("Epsilon spent", "no bound" if epsilon is None else f"{epsilon:.4g}"),
        ("Epsilon left", DASH if held is None else f"{max(limit['epsilon'] - held, 0):.4g}"),
        ("Spent, or held for begun studies", DASH if held is None else f"{held:.4g}"),
        ("Delta spent", DASH if delta is None else f"{delta:.2g} of {limit['delta']:.2g}"),
        ("Unit", UNIT),
        ("Adjacency", ADJACENCY),
        ("Over studies", "epsilon and delta add up"),
        ("Declared patients", str(values["declared"])),
        ("Patients withdrawn", str(values["withdrawn"])),
    ]


def _cohort_row(row: CohortRow) -> dict[str, Any]:
    others = [name for name in row["together"] if name != row["cohort"]]
    amounts = [finite(row[key]) for key in ("spent", "held", "left")]
    return {
        "name": row["cohort"],
        "together": ", ".join(others) or "none: it stands alone",
        "cells": ["no bound" if a is None else show(a, 3) for a in amounts],
    }


def _study_row(row: StudyRow, values: SiteValues) -> dict[str, Any]:
    epsilon = finite(row["epsilon"])
    refused = [f"{reason} (times: {times})" for reason, times in sorted(row["refusals"].items())]
    return {
        "name": row["title"] or row["study"] or "unknown study",
        "digest": row["digest"][:12]
        + (f", cohort {row['cohort']}" if len(values["cohorts"]) > 1 and row["cohort"] else ""),
        "approved": (row["approved"][:10] or DASH) if row["is_open"] else "not approved",
        "cells": [
            "no guarantee" if epsilon is None else show(epsilon, 3),
            f"{row['delta']:.2g}" if epsilon else DASH,
            str(row["runs"]),
            f"{row['answered']} of {row['planned']}" if row["planned"] else str(row["answered"]),
        ],
        "refused": "; ".join(refused) or DASH,
    }


def _has(figure: str, models: Sequence[ModelRow]) -> bool:
    """Say whether any model has a figure: kappa of grades, the C-index of survival."""
    rows = (row for model in models for row in model["judged"].values())
    return any(row["figures"].get(figure) is not None for row in rows)


def _model_rows(model: ModelRow, *, graded: bool, survival: bool) -> dict[str, Any]:
    names = ["accuracy", "brier", "calibration_slope", "calibration_intercept"]
    names += ["kappa"] * graded + ["c_index"] * survival
    rows = []
    for form, label in FORMS.items():
        judged = model["judged"].get(form)
        if judged is not None:
            low, high = judged["auc_low"], judged["auc_high"]
            ends = "" if low is None or high is None else f"{show(low, 2)} to {show(high, 2)}"
            auc = (show(judged["figures"].get("auc")), ends)
            cells = [show(judged["figures"].get(name)) for name in names]
            rows.append({"name": label, "auc": auc, "cells": cells})
    return {
        "name": model["title"] or model["study"],
        "run": model["run"],
        "patients": f"{model['train']} train, {model['holdout']} holdout",
        "rows": rows,
        "problem": model["problem"],
    }


def _pictures(values: SiteValues) -> dict[str, dict[str, Any]]:
    drawn = (
        (
            "budget",
            burn_down(values),
            "what the ledger has reserved",
            "What a patient may have spent, study upon study. It never falls: what is reserved is "
            "not given back, answered or not. Above the dashed line nothing is answered.",
            "Nothing has been spent yet." if not values["spending"] else "",
        ),
        (
            "calibration",
            calibration_here(values),
            KEPT,
            "Points on the dashed diagonal mean that of patients given a risk of 30%, 30% have the "
            "disease; below it the model overstates the risk. Bars are 95% intervals.",
            "",
        ),
    )
    return numbered(drawn)
