"""The forest plot: every hospital's released AUC, their mean and where a new one is expected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from common.report.drawing import BLUE, FAINT, INK, MUTED, RED, WIDTH, Drawing, render, short_name
from common.report.values import (
    DASH,
    Metrics,
    Site,
    by_size,
    finite,
    show,
    sites_with,
    took_part,
)

MAX_ROWS = 24


def forest(metrics: Metrics) -> str:
    """Draw each hospital's released AUC, the random-effects mean and the prediction interval.

    Args:
        metrics: figures of a run; uses `sites[].private`, `pooled_private`.

    Returns:
        An SVG element, the 24 largest hospitals at most; empty if no hospital released an AUC.

    >>> forest({"sites": []})
    ''
    """
    return render(_forest, metrics, name="forest")


def _forest(metrics: Metrics) -> Drawing | None:
    """The picture of `forest`."""
    if not any(finite(s["private"].get("auc")) is not None for s in sites_with(metrics, "auc")):
        return None
    sites = by_size(metrics)[:MAX_ROWS]
    pooled = metrics.get("pooled_private") or {}
    bottom = len(sites) + (2 if pooled else 0)
    height = 0.75 + 0.235 * bottom
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.32, 0.48 / height, 0.49, 1 - 0.5 / height))
    lows = [0.5, *(v for s in sites if (v := finite((s.get("private") or {}).get("auc_low"))))]
    lows += [v for v in [finite(pooled.get("prediction_low"))] if v is not None]
    axes.set(
        xlim=(max(0.0, math.floor(min(lows) * 10) / 10 - 0.02), 1.02),
        xlabel="AUC",
        ylim=(bottom - 0.4, -1.1),
    )
    axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    rows = [_forest_row(axes, y, site) for y, site in enumerate(sites)]
    if pooled:
        rows += _diamond(axes, len(sites), pooled)
    side = axes.get_yaxis_transform()
    for y, (left, middle, right) in enumerate(rows):
        weight = "bold" if pooled and y == len(sites) else "normal"
        colour = MUTED if right.startswith("left out") or right == DASH else INK
        axes.text(-0.645, y, left, transform=side, va="center", weight=weight, color=colour)
        axes.text(-0.02, y, middle, transform=side, ha="right", va="center", color=colour)
        if right.startswith("left out"):
            axes.text(
                0.01,
                y,
                short_name(right, 70),
                transform=side,
                va="center",
                color=MUTED,
                style="italic",
                backgroundcolor="white",
            )
        else:
            axes.text(1.02, y, right, transform=side, va="center", weight=weight, color=colour)
    heads = (
        (-0.645, "left", "Hospital"),
        (-0.02, "right", "Declared"),
        (1.02, "left", "AUC [95% interval]"),
    )
    for x, side_of, head in heads:
        axes.text(x, -0.95, head, transform=side, ha=side_of, va="center", color=MUTED)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    said = "; ".join(f"{left.strip()} {right}" for left, _, right in rows)
    return Drawing(figure, "Released AUC of each hospital", f"{said}.")


def _forest_row(axes: Axes, y: int, site: Site) -> tuple[str, str, str]:
    """One hospital: its mark and line; returns its name, declared size and figures as text."""
    private = site.get("private") or {}
    auc, low, high = (finite(private.get(key)) for key in ("auc", "auc_low", "auc_high"))
    left, middle = short_name(site), show(site.get("declared"), 0)
    if not took_part(site):
        return left, middle, str(site["status"])
    if auc is None:
        return left, middle, DASH
    size = 4.0
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=BLUE, linewidth=1.2, solid_capstyle="butt")
        size = min(max(2.6 / math.sqrt(max(high - low, 0.01)), 3.5), 9.0)
    axes.plot([auc], [y], "s", color=BLUE, markersize=size, markeredgewidth=0)
    return left, middle, f"{show(auc, 2)} [{show(low, 2)}, {show(high, 2)}]"


def _diamond(axes: Axes, y: int, pooled: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The pooled mean as a diamond and where a new hospital's true AUC is expected."""
    keys = ("auc", "low", "high", "prediction_low", "prediction_high")
    mean, low, high, first, last = (finite(pooled.get(key)) for key in keys)
    axes.axhline(y - 0.5, color=FAINT, linewidth=0.8)
    if mean is not None and low is not None and high is not None:
        corners = [(low, y), (mean, y - 0.3), (high, y), (mean, y + 0.3)]
        axes.add_patch(Polygon(corners, facecolor=RED, edgecolor="none", zorder=3))
        axes.vlines(mean, -0.4, y, color=RED, linewidth=0.7, linestyle=(0, (3, 3)), zorder=0.5)
    if first is not None and last is not None:
        axes.plot([first, last], [y + 1, y + 1], color=RED, marker="|", markersize=7)
    return [
        ("Random-effects mean", "", f"{show(mean, 2)} [{show(low, 2)}, {show(high, 2)}]"),
        ("A new hospital (prediction)", "", f"[{show(first, 2)}, {show(last, 2)}]"),
    ]
