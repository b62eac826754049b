"""The arms side by side: each arm's mean AUC and accuracy, shared and adapted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from common.report.drawing import BLUE, RED, WIDTH, Drawing, blank, render, short_name
from common.report.values import Metrics, finite, headline, show, site_columns


def arms(metrics: Metrics) -> str:
    """Draw every arm's mean AUC and accuracy, shared and adapted, plus and minus one sd.

    Of survival it is the mean C-index and AUC.

    Args:
        metrics: figures of a run; uses `arms`, `main_arm`.

    Returns:
        An SVG element, or an empty string without arms.

    >>> arms({"arms": {}})
    ''
    """
    return render(_arms, metrics, name="arms")


def _arms(metrics: Metrics) -> Drawing | None:
    """The picture of `arms`."""
    table = metrics.get("arms") or {}
    if not table:
        return None
    names = list(table)
    figure = blank(WIDTH, 1.0 + 0.4 * len(names))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (key, heading) in zip(panels, site_columns(metrics), strict=True):
        _arm_marks(axes, table, key)
        measure = "accuracy" if key == "accuracy" else heading
        axes.set(title=f"Mean {measure} over hospitals", ylim=(len(names) - 0.5, -0.5))
        axes.grid(False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_yticks(range(len(names)), [short_name(name) for name in names])
    for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == metrics.get("main_arm") else "normal")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    key, heading = headline(metrics)
    said = "; ".join(
        f"{short_name(n)} {heading} {show(table[n].get(f'mean_{key}'))}, adapted "
        f"{show((table[n].get('adapted') or {}).get(f'mean_{key}'))}"
        for n in names
    )
    return Drawing(figure, "Arms compared", f"Mean over hospitals: {said}.")


def _arm_marks(axes: Axes, table: Mapping[str, Mapping[str, Any]], measure: str) -> None:
    """Shared (full circle) and adapted (open diamond) figures of one measure."""
    forms = (
        ("shared model", -0.13, BLUE, "o", BLUE),
        ("after local adaptation", 0.13, RED, "D", "white"),
    )
    ends = []
    for label, offset, colour, mark, face in forms:
        points = []
        for y, (name, row) in enumerate(table.items()):
            figures = row if offset < 0 else row.get("adapted") or {}
            value = finite(figures.get(f"mean_{measure}"))
            if value is not None:
                spread = finite(figures.get(f"sd_{measure}")) or 0.0
                points.append((value, y + offset, spread))
                ends += [] if name == "majority" else [value - spread, value + spread]
        values, at, bars = (list(row) for row in zip(*points, strict=True)) if points else ([],) * 3
        drawn = axes.errorbar(values, at, xerr=bars, fmt=mark, color=colour, label=label)
        drawn.lines[0].set(markerfacecolor=face, markersize=5)
    for y in range(len(table) - 1):
        axes.axhline(y + 0.5, color="#eef1f4", linewidth=0.7)
    if ends:
        _frame_arms(axes, (min(ends), max(ends)), table, f"mean_{measure}")


def _frame_arms(
    axes: Axes, ends: tuple[float, float], table: Mapping[str, Mapping[str, Any]], key: str
) -> None:
    """Fit the axis to the arms that learn; a majority vote far below them is an arrow."""
    pad = 0.06 * (ends[1] - ends[0]) + 0.004
    axes.set_xlim(ends[0] - pad, ends[1] + pad)
    value = finite((table.get("majority") or {}).get(key))
    if value is not None and value < ends[0] - pad:
        y = list(table).index("majority")
        side = axes.get_yaxis_transform()
        axes.text(0.015, y - 0.13, f"\N{LEFTWARDS ARROW} {value:.3f}", transform=side, va="center")
