"""The report of `sim loho`: one self-contained HTML file on hospitals that took no part.

`loho_words`, `loho_tables` and the pictures choose what it says; `loho_page.html` lays it out.
"""

from __future__ import annotations

from typing import Any

from common.report.drawing import MAX_PANELS
from common.report.figures_forest import MAX_ROWS
from common.report.figures_loho import PANELS, by_shots, forest
from common.report.figures_loho_sites import calibration, decision_curves
from common.report.layout import fill, numbered
from common.report.loho_tables import (
    centre_rows,
    eligible_note,
    mean_groups,
    missing_tables,
    pooled_groups,
    site_groups,
)
from common.report.loho_values import labelled, left_out_sites, pooled_main, shots_of
from common.report.loho_words import arm_notes, footing, reach, verdict
from common.report.tables import provenance_rows
from common.report.values import Metrics, finite
from common.report.words import EXACT


def loho_html(metrics: Metrics) -> str:
    """Write the report of hospitals left out as one HTML file, styles and pictures inside.

    The tables by centre follow TRIPOD-Cluster (Debray et al., BMJ 380, 2023).

    Args:
        metrics: figures of a run, as `grandrounds sim loho --json` prints them. Anything missing
            is shown as an en dash, an AUC as 'not defined', or its section says why it is absent.

    Returns:
        The whole file as text; equal metrics give equal text.

    >>> "Leave one hospital out: Demo" in loho_html({"title": "Demo"})
    True
    """
    title = metrics.get("title") or metrics.get("study") or "Study"
    shots = shots_of(metrics)
    return fill(
        "loho_page.html",
        metrics,
        title=f"Leave one hospital out: {title}",
        description=str(metrics.get("description") or ""),
        verdict=verdict(metrics),
        footing=footing(metrics),
        reach=reach(metrics),
        arms=arm_notes(metrics),
        means=mean_groups(metrics),
        sites=site_groups(metrics),
        centres=centre_rows(metrics),
        missing=missing_tables(metrics),
        eligible=eligible_note(metrics),
        pooled=pooled_groups(metrics),
        first=labelled(min(shots, default=0)),
        method=_method(metrics),
        pictures=_pictures(metrics),
        footer=_footer(metrics),
    )


def _footer(metrics: Metrics) -> list[tuple[str, str]]:
    """Where the figures come from; a patient is drawn anew for every number of shots."""
    rows = [row for row in provenance_rows(metrics) if row[0] != "Seeds"]
    seed, draws = finite(metrics.get("seed")), finite(metrics.get("draws"))
    known = [f"seed {seed:.0f}"] if seed is not None else []
    known += [f"{draws:.0f} draws"] if draws is not None else []
    return rows[:2] + ([("Randomness", ", ".join(known))] if known else []) + rows[2:]


def _method(metrics: Metrics) -> str:
    found = (pooled_main(metrics, k).get("method") for k in shots_of(metrics))
    return str(next((method for method in found if method), "method not stated"))


def _pictures(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Every figure with its number, label and caption; what to say where it is absent."""
    total = len(metrics.get("centres") or [])
    panels = _note(MAX_PANELS, len(left_out_sites(metrics)))
    listed = {
        "shots": (
            by_shots(metrics),
            "Further up is better on the left, further down on the right. Means over hospitals; "
            "full marks and lines: adapted to the labelled patients, or a model of these alone; "
            "open marks and dashes: the shared model as it is. Lines that coincide cover each "
            "other.",
            "No arm was judged.",
        ),
        "forest": (
            forest(metrics),
            "The main arm at hospitals that took no part in its training. Each square is a "
            "hospital, larger where its AUC is known better, with its 95% interval, which is that "
            "of sampling patients, not of drawing labelled ones. The dotted line at 0.5 is chance."
            + _pooled_note(metrics)
            + _note(MAX_ROWS, total),
            "No AUC of the main arm is defined, so there is no forest plot.",
        ),
        "calibration": (
            calibration(metrics),
            "The main arm with no labelled patient, by tenths of the predicted risk. Points on the "
            "dashed diagonal mean that of patients given a risk of 30%, 30% have the disease; "
            "below it the model overstates the risk. Bars are 95% intervals." + panels,
            "Calibration is absent: it needs two outcomes and a run with no labelled patient.",
        ),
        "benefit": (
            decision_curves(metrics),
            "Net benefit counts the patients rightly treated, less those wrongly treated at the "
            "exchange rate that the threshold implies. Where a coloured line is above both others, "
            "deciding by the model does more good than treating everybody or nobody. Marks are the "
            "thresholds computed." + panels,
            "Decision curves are absent: net benefit needs two outcomes.",
        ),
    }
    return numbered(
        (name, svg, EXACT, caption, absent) for name, (svg, caption, absent) in listed.items()
    )


def _note(shown: int, total: int) -> str:
    return f" Only the {shown} largest of {total} hospitals are drawn." if total > shown else ""


def _pooled_note(metrics: Metrics) -> str:
    """Explain the marks of the random effects that are in the forest plot."""
    rows = [pooled_main(metrics, shots) for shots in shots_of(metrics)[:PANELS]]
    text = ""
    if any(finite(row.get("auc")) is not None for row in rows):
        text = " The diamond is the random-effects mean with its 95% interval"
        if any(finite(row.get("prediction_low")) is not None for row in rows):
            text += "; the line under it is where the true AUC of a new, similar hospital is "
            text += "expected (95%)"
        text += "."
    return text
