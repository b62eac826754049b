"""The report's pictures in the order of the page, each with its label and how to read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.report.drawing import MAX_PANELS
from common.report.figures_arms import arms
from common.report.figures_fewshot import few_shot_captions
from common.report.figures_forest import MAX_ROWS, forest
from common.report.figures_learning import epsilon_by_round, learning_curves
from common.report.figures_released import calibration, decision_curves
from common.report.layout import numbered
from common.report.values import Metrics, finite, show, took_part
from common.report.words import EXACT, epsilon_line, gate_label

_FEW = 5  # with fewer hospitals the variance between them is barely estimable


def pictures(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Every figure with its number, label and caption; what to say where it is absent."""
    return numbered(
        (name, draw(metrics), label, caption, absent)
        for name, (draw, label, caption, absent) in _captions(metrics).items()
    )


def _captions(metrics: Metrics) -> dict[str, tuple[Callable[[Metrics], str], str, str, str]]:
    """List the pictures in page order: how to draw, label, how to read, why it may be absent."""
    gate, epsilon = gate_label(metrics), epsilon_line(metrics)
    total = sum(map(took_part, metrics.get("sites") or []))
    panels = _note(MAX_PANELS, total)
    seeds = int(finite(metrics.get("seeds")) or 1)
    bars = (
        f"Bars reach one standard deviation over {seeds} seeds to either side; marks whose bars "
        "overlap should not be ranked."
        if seeds > 1
        else "There are no bars: one seed was run, so the spread is not known."
    )
    return {
        "epsilon": (
            epsilon_by_round,
            "computed from the study\u2019s plan alone, without patients",
            "What one training patient has spent after each round. Lower is more private; it never "
            f"falls. The dashed line is the epsilon stated above ({epsilon}).",
            "Epsilon by round is absent: the run is not private or gives no account by round.",
        ),
        "arms": (
            arms,
            EXACT,
            "Further right is better. Full circles: one model for all hospitals. Open diamonds: "
            f"after each hospital fitted it to its own patients. {bars} "
            "An arrow gives the majority vote where it is off the scale.",
            "No arm was evaluated.",
        ),
        "curves": (
            learning_curves,
            EXACT,
            "How well the shared model ranks each hospital\u2019s held-out patients as rounds pass "
            "(0.5 is chance, 1 is perfect; first seed). A line that falls is a hospital for which "
            "further rounds made the shared model worse.",
            "Learning curves are absent: none were recorded.",
        ),
        "forest": (
            forest,
            gate,
            "Each square is a hospital\u2019s AUC, larger where it is known better; the line is "
            "its 95% interval, with any noise included. The dotted line at 0.5 is chance."
            + _pooled_note(metrics)
            + _note(MAX_ROWS, len(metrics.get("sites") or [])),
            "No hospital released an AUC.",
        ),
        "calibration": (
            calibration,
            gate,
            "Points on the dashed diagonal mean that of patients given a risk of 30%, 30% have the "
            "disease; below it the model overstates the risk. Bars are 95% intervals with sampling "
            "and noise; bins with fewer patients than the noise can hide are not drawn." + panels,
            "No hospital released a histogram of scores, so calibration is not known.",
        ),
        "benefit": (
            decision_curves,
            gate,
            "Net benefit counts the patients rightly treated, less those wrongly treated at the "
            "exchange rate that the threshold implies. Where the blue line is above both others, "
            "deciding by the model does more good than treating everybody or nobody." + panels,
            "",
        ),
    } | few_shot_captions(metrics.get("fewshot") or {})


def _note(shown: int, total: int) -> str:
    """Say which hospitals a picture leaves to the tables."""
    return f" Only the {shown} largest of {total} hospitals are drawn." if total > shown else ""


def _pooled_note(metrics: Metrics) -> str:
    """Put the random-effects mean and the prediction interval into words."""
    p = metrics.get("pooled_private") or {}
    if finite(p.get("auc")) is None:
        return " No random-effects mean: too few hospitals released an AUC with an interval."
    ends = f"{show(p.get('low'), 2)} to {show(p.get('high'), 2)}"
    text = (
        f" The diamond is the random-effects mean of {show(p.get('k'), 0)} hospitals, "
        f"{show(p['auc'], 2)} (95% interval {ends}); tau² {show(p.get('tau2'), 3)} on the logit "
        f"scale; {p.get('method') or 'method not stated'}."
    )
    text += " The line under it is where the true AUC of a new, similar hospital is expected (95%)."
    if (finite(p.get("k")) or 0) < _FEW:
        text += " With so few hospitals the variance between them is barely estimable."
    return text
