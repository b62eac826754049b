"""Pictures of hospitals left out: the forest plot, and the arms by number of labelled patients.

Each is a pure function from the metrics of `sim loho` to one `<svg>` element with a title and a
description for screen readers, or an empty string where there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from common.report.drawing import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    RED,
    WIDTH,
    Drawing,
    blank,
    render,
    short_name,
)
from common.report.figures_forest import MAX_ROWS
from common.report.loho_values import (
    NOT_DEFINED,
    Form,
    by_declared,
    labelled,
    left_out_sites,
    main_figures,
    mean_forms,
    pooled_main,
    shots_of,
)
from common.report.values import DASH, Metrics, finite, show

NO_PART = "took no part"
PANELS = 2  # of the forest: the fewest labelled patients, and the next number
_LEFT = 0.215  # of the forest's width, for the names
_TEXT = 0.125  # the same, for the figures beside a panel
# An arm has its colour in all its forms: not adapted is dashed.
_ARM_COLOURS = {"local_weak": "#7d868f", "local_strong": "#454d55", "pooled": "#00795c",
                "pooled_recalibrated": "#8a6500", "fedavg": "#9c3f7c"}  # fmt: skip
_OTHER_COLOURS = ("#2f86c4", "#7a3b12", "#5a4fa2")
_ARM_MARKS = {"local_weak": "v", "local_strong": "^", "pooled": "s", "pooled_recalibrated": "P",
              "fedavg": "D"}  # fmt: skip
# FedAvg and Reptile often coincide: the larger mark stays visible under the smaller.
_ARM_SIZES = {"fedavg": 8.5}


def forest(metrics: Metrics) -> str:
    """Draw the main arm's AUC where it took no part, at two numbers of labelled patients.

    Args:
        metrics: figures of a run; uses `held_out`, `pooled`, `centres`, `shots`, `main_arm`.

    Returns:
        An SVG element, the 24 largest hospitals at most; empty if no AUC is defined.

    >>> forest({"held_out": {}})
    ''
    """
    return render(_forest, metrics, name="loho-forest")


def _forest(metrics: Metrics) -> Drawing | None:
    """The picture of `forest`."""
    panels = [n for n in shots_of(metrics) if _known_aucs(metrics, n)][:PANELS]
    if not panels:
        return None
    centres = by_declared(metrics)[:MAX_ROWS]
    pooled = any(finite(pooled_main(metrics, shots).get("auc")) is not None for shots in panels)
    bottom = len(centres) + (2 if pooled else 0)
    height = 0.95 + 0.235 * bottom
    figure = Figure(figsize=(WIDTH, height))
    each = (1 - _LEFT) / len(panels)
    least = min(_lowest(metrics, shots) for shots in panels)
    said = []
    for number, shots in enumerate(panels):
        place = (_LEFT + number * each, 0.48 / height, each - _TEXT - 0.01, 1 - 0.72 / height)
        axes = figure.add_axes(place)
        axes.set(xlim=(least, 1.02), xlabel="AUC", ylim=(bottom - 0.4, -0.9))
        axes.set_title(f"With {labelled(shots)}", pad=9)
        axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        rows = [_forest_row(axes, y, metrics, c, shots) for y, c in enumerate(centres)]
        if pooled:
            rows += _diamond(axes, len(centres), pooled_main(metrics, shots))
        _write_rows(axes, rows, names=number == 0, bold=len(centres) if pooled else -1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        said.append(f"With {labelled(shots)}: " + "; ".join(" ".join(row) for row in rows))
    return Drawing(figure, "AUC of each hospital left out", ". ".join(said) + ".")


def _known_aucs(metrics: Metrics, shots: int) -> list[float]:
    values = [(main_figures(metrics, s, shots) or {}).get("auc") for s in left_out_sites(metrics)]
    return [value for value in map(finite, values) if value is not None]


def _lowest(metrics: Metrics, shots: int) -> float:
    """Where the axis begins: below every interval, at a tenth."""
    ends = [(main_figures(metrics, s, shots) or {}).get("auc_low") for s in left_out_sites(metrics)]
    ends += [pooled_main(metrics, shots).get(key) for key in ("ci_low", "prediction_low")]
    known = [value for value in map(finite, ends) if value is not None]
    low = min([0.5, *known, *_known_aucs(metrics, shots)])
    return max(0.0, math.floor(low * 10) / 10) - 0.02


def _forest_row(
    axes: Axes, y: int, metrics: Metrics, centre: Mapping[str, Any], shots: int
) -> tuple[str, str]:
    """One hospital: its mark and line; returns its name and figures as text."""
    name = str(centre.get("name") or DASH)
    figures = main_figures(metrics, name, shots)
    if figures is None:
        if name in left_out_sites(metrics):
            return short_name(name), "too few patients"
        axes.text(0.01, y, _reason(centre), transform=axes.get_yaxis_transform(), va="center",
                  color=MUTED, style="italic", fontsize=7.5, backgroundcolor="white")  # fmt: skip
        return short_name(name), NO_PART
    auc, low, high = (finite(figures.get(key)) for key in ("auc", "auc_low", "auc_high"))
    if auc is None:
        return short_name(name), NOT_DEFINED
    size = 5.0
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=BLUE, linewidth=1.2, solid_capstyle="butt")
        size = min(max(1.9 / math.sqrt(max(high - low, 0.01)), 3.5), 6.5)
    axes.plot([auc], [y], "s", color=BLUE, markersize=size, markeredgewidth=0)
    return short_name(name), _with_ends(auc, low, high)


def _reason(centre: Mapping[str, Any]) -> str:
    """Why a centre took no part, as its status says after the colon."""
    return short_name(str(centre.get("status") or "").partition(": ")[2], 44)


def _with_ends(value: float | None, low: float | None, high: float | None) -> str:
    ends = f"[{show(low, 2)}, {show(high, 2)}]" if low is not None or high is not None else ""
    return f"{'' if value is None else show(value, 2)} {ends}".strip() or DASH


def _diamond(axes: Axes, y: int, pooled: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pooled mean as a diamond and where a new hospital's true AUC is expected."""
    keys = ("auc", "ci_low", "ci_high", "prediction_low", "prediction_high")
    mean, low, high, first, last = (finite(pooled.get(key)) for key in keys)
    axes.axhline(y - 0.5, color=FAINT, linewidth=0.8)
    if mean is not None and low is not None and high is not None:
        corners = [(low, y), (mean, y - 0.3), (high, y), (mean, y + 0.3)]
        axes.add_patch(Polygon(corners, facecolor=RED, edgecolor="none", zorder=3))
        axes.vlines(mean, -0.5, y, color=RED, linewidth=0.7, linestyle=(0, (3, 3)), zorder=0.5)
    elif mean is not None:
        axes.plot([mean], [y], "D", color=RED, markersize=5)
    if first is not None and last is not None:
        axes.plot([first, last], [y + 1, y + 1], color=RED, marker="|", markersize=7)
    return [
        ("Random-effects mean", _with_ends(mean, low, high)),
        ("A new hospital (prediction)", _with_ends(None, first, last)),
    ]


def _write_rows(axes: Axes, rows: list[tuple[str, str]], *, names: bool, bold: int) -> None:
    """Write the figures to the right of a panel and, at the first, the names to its left."""
    width = axes.get_position().width
    side = axes.get_yaxis_transform()
    for y, (name, text) in enumerate(rows):
        weight = "bold" if y == bold else "normal"
        colour = INK if text[:1].isdigit() or text.startswith("[") else MUTED
        axes.text(1.03, y, text, transform=side, va="center", weight=weight, color=colour)
        if names:
            axes.text(-_LEFT / width, y, name, transform=side, va="center", weight=weight)


def by_shots(metrics: Metrics) -> str:
    """Draw every arm's mean AUC and log-loss by the number of labelled patients.

    Args:
        metrics: figures of a run; uses `mean`, `shots`, `main_arm`.

    Returns:
        An SVG element, or an empty string without means.

    >>> by_shots({"mean": {}})
    ''
    """
    return render(_by_shots, metrics, name="loho-shots")


def _by_shots(metrics: Metrics) -> Drawing | None:
    """The picture of `by_shots`."""
    lines: dict[str, list[tuple[int, Form]]] = {}
    for shots in reversed(shots_of(metrics)):  # every arm has its place where there are most
        for form in mean_forms(metrics, shots):
            lines.setdefault(form.label, []).insert(0, (shots, form))
            if not shots and f"{form.arm}, adapted" in lines:  # it starts from the arm as it is
                lines[f"{form.arm}, adapted"].insert(0, (shots, form))
    if not lines:
        return None
    figure = blank(WIDTH, 3.1 + 0.17 * math.ceil(len(lines) / 3))
    panels = figure.subplots(1, 2)
    said = []
    for axes, key, label in zip(panels, ("auc", "log_loss"), ("AUC", "log-loss"), strict=True):
        axes.set(title=f"Mean {label}", xlabel="labelled patients of the hospital")
        axes.set_xticks(shots_of(metrics))
        axes.margins(x=0.06)
        said += _draw_lines(axes, lines, key, label, metrics)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    title = "Arms by number of labelled patients"
    return Drawing(figure, title, "Mean over hospitals: " + "; ".join(said) + ".")


def _draw_lines(
    axes: Axes,
    lines: Mapping[str, list[tuple[int, Form]]],
    key: str,
    measure: str,
    metrics: Metrics,
) -> list[str]:
    """One line a form of an arm, the main one last and thickest; returns what they say."""
    others = dict.fromkeys(form.arm for line in lines.values() for _, form in line)
    spare = [arm for arm in others if arm not in _ARM_COLOURS and arm != metrics.get("main_arm")]
    said = []
    for label, line in lines.items():
        arm, adapted = line[-1][1].arm, line[-1][1].adapted
        is_main = arm == metrics.get("main_arm")
        at = spare.index(arm) if arm in spare else 0
        colour = _ARM_COLOURS.get(arm, _OTHER_COLOURS[at % len(_OTHER_COLOURS)])
        known = [(x, v) for x, f in line if (v := finite(f.figures.get(key))) is not None]
        axes.plot(
            [x for x, _ in known],
            [v for _, v in known],
            color=BLUE if is_main else colour,
            marker="o" if is_main else _ARM_MARKS.get(arm, "h"),
            markersize=_ARM_SIZES.get(arm, 5.5),
            markerfacecolor="white" if arm in ("pooled", "fedavg", "reptile") and not adapted
            else None,
            linestyle="-" if adapted or arm.startswith("local") or "_" in arm else (0, (4, 2)),
            linewidth=2.2 if is_main and adapted else 1.3,
            zorder=4 if is_main and adapted else 3 if is_main else 2,
            label=short_name(label, 30),
        )  # fmt: skip
        values = ", ".join(f"{show(v)} at {x}" for x, v in known)
        said.append(f"{short_name(label, 30)} {measure} {values or DASH}")
    return said
