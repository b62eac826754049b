"""The pictures of a meta-analysis in rows: the forest plot and the cumulative forest plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from common.report.drawing import BLUE, FAINT, INK, MUTED, RED, WIDTH, Drawing, render, short_name
from common.report.values import Metrics, finite, show

MAX_STUDIES = 60
_RATIOS = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000)
_AUCS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class _Row:
    """A line of the picture: its text, and what is drawn on it."""

    text: str
    kind: str  # study, head, mean, total or prediction
    values: Mapping[str, Any]
    weight: float | None = None


def forest(values: Metrics) -> str:
    """Draw every study, the pooled mean, and where a new study is expected.

    Args:
        values: as `common.meta.analysis.analyse` returns them.

    Returns:
        An SVG element, the `MAX_STUDIES` of most weight at most.
    """
    return render(_forest, values, name="forest")


def cumulative(values: Metrics) -> str:
    """Draw the pooled mean as studies come in; empty below two studies."""
    return render(_cumulative, values, name="cumulative")


def reader_axis(axes: Axes, values: Metrics) -> None:
    """Label an axis of the analysis scale with the reader's values."""
    low, high = axes.get_xlim()
    if values.get("ratio"):
        ticks = [tick for tick in _RATIOS if low <= math.log(tick) <= high]
        if len(ticks) > 7:
            ticks = [tick for tick in ticks if math.log10(tick) == round(math.log10(tick))]
        named = {math.log(tick): f"{tick:g}" for tick in ticks}
        if len(named) < 2:  # too narrow, or too wide, for round ratios
            named = {x: f"{math.exp(min(x, 700)):.3g}" for x in axes.get_xticks()}
        axes.set_xticks(list(named), list(named.values()))
        axes.set_xlim(low, high)
    elif values.get("auc"):
        ticks = [tick for tick in _AUCS if low <= math.log(tick / (1 - tick)) <= high]
        places = [math.log(tick / (1 - tick)) for tick in ticks]
        axes.set_xticks(places, [f"{tick:g}" for tick in ticks])
    name = str(values.get("measure_name") or "effect")
    logged = ", logarithmic" if values.get("ratio") else ""
    axes.set_xlabel(name[:1].upper() + name[1:] + logged)


def _told(row: Mapping[str, Any], *, prediction: bool = False) -> str:
    """An estimate with its interval, on the reader's scale."""
    shown = row.get("ratio") or row.get("auc") or row
    if prediction:
        ends = (shown.get("prediction_low"), shown.get("prediction_high"))
        return f"[{show(ends[0], 2)}, {show(ends[1], 2)}]"
    estimate, low, high = (shown.get(key) for key in ("estimate", "ci_low", "ci_high"))
    return f"{show(estimate, 2)} [{show(low, 2)}, {show(high, 2)}]"


def _forest(values: Metrics) -> Drawing | None:
    studies: Sequence[Mapping[str, Any]] = values.get("studies") or []
    if not studies:
        return None
    drawn = sorted(studies, key=lambda row: -float(row["weight"]))[:MAX_STUDIES]
    kept = [row for row in studies if row in drawn]
    rows = _grouped(kept, values) if values.get("subgroups") else [_study(row) for row in kept]
    rows.append(_Row(f"Pooled ({values['method']})", "total", values, 1.0))
    if finite(values.get("prediction_low")) is not None:
        rows.append(_Row("A new study (prediction)", "prediction", values))
    picture = _rows(rows, values, heads=("Study", "Weight"))
    said = "; ".join(f"{row.text} {_told(row.values)}" for row in rows if row.kind != "head")
    return Drawing(picture, "Forest plot", f"{said}.")


def _study(row: Mapping[str, Any]) -> _Row:
    return _Row(str(row["name"]), "study", row, float(row["weight"]))


def _grouped(studies: Sequence[Mapping[str, Any]], values: Metrics) -> list[_Row]:
    rows = []
    for group in values["subgroups"]["groups"]:
        members = [row for row in studies if row.get("group") == group["name"]]
        rows += [_Row(str(group["name"]), "head", {}), *map(_study, members)]
        rows.append(_Row(f"Mean of {group['k']}", "mean", group))
    rest = [row for row in studies if row.get("group") is None]
    return [*rows, *([_Row("no group", "head", {}), *map(_study, rest)] if rest else [])]


def _cumulative(values: Metrics) -> Drawing | None:
    found: Sequence[Mapping[str, Any]] = values.get("cumulative") or []
    if len(found) < 2:
        return None
    shown = found[-MAX_STUDIES:]
    rows = [_Row(("+ " if row["k"] > 1 else "") + str(row["name"]), "step", row) for row in shown]
    picture = _rows(rows, values, heads=("Studies so far", ""))
    said = "; ".join(f"{row.text} {_told(row.values)}" for row in rows)
    return Drawing(
        picture, "Cumulative forest plot", f"In order of {values['cumulative_order']}: {said}."
    )


def _rows(rows: Sequence[_Row], values: Metrics, *, heads: tuple[str, str]) -> Figure:
    """Lay out text left, marks in the middle, figures right."""
    height = 0.75 + 0.205 * len(rows)
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.30, 0.48 / height, 0.44, 1 - 0.52 / height))
    axes.set(ylim=(len(rows) - 0.4, -1.1), xlim=_limits(rows, values))
    reader_axis(axes, values)
    null = finite(values.get("null"))
    if null is not None:
        axes.axvline(null, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.axvline(
        float(values["estimate"]), color=RED, linewidth=0.7, linestyle=(0, (3, 3)), zorder=0.5
    )
    side = axes.get_yaxis_transform()
    for y, row in enumerate(rows):
        _mark(axes, y, row)
        weight = "bold" if row.kind in {"head", "total", "mean"} else "normal"
        axes.text(-0.66, y, short_name(row.text, 34), transform=side, va="center", weight=weight)
        if row.kind == "head":
            continue
        told = _told(row.values, prediction=row.kind == "prediction")
        axes.text(1.02, y, told, transform=side, va="center", weight=weight)
        if row.weight is not None and row.kind == "study":
            share = f"{100 * row.weight:.1f}%"
            axes.text(1.58, y, share, transform=side, ha="right", va="center", color=INK)
    right = f"{values['measure'] if values['measure'] != 'GEN' else 'Effect'} [95% interval]"
    for x, where, head in (
        (-0.66, "left", heads[0]),
        (1.02, "left", right),
        (1.58, "right", heads[1]),
    ):
        axes.text(x, -0.95, head, transform=side, ha=where, va="center", color=MUTED)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return figure


def _limits(rows: Sequence[_Row], values: Metrics) -> tuple[float, float]:
    """Show every estimate and the prediction; an interval may leave the picture by an arrow."""
    inside = [float(row.values["estimate"]) for row in rows if "estimate" in row.values]
    ends = [
        finite(values.get(key))
        for key in ("prediction_low", "prediction_high", "ci_low", "ci_high")
    ]
    inside += [end for end in (*ends, finite(values.get("null"))) if end is not None]
    low, high = min(inside), max(inside)
    room = 0.35 * (high - low) + 1e-9
    lows = [_end(row, "ci_low", -math.inf) for row in rows if "ci_low" in row.values]
    highs = [_end(row, "ci_high", math.inf) for row in rows if "ci_high" in row.values]
    pad = 0.03 * (high - low) + 1e-9
    return (
        min(low, max(low - room, min(lows, default=low))) - pad,
        max(high, min(high + room, max(highs, default=high))) + pad,
    )


def _end(row: _Row, key: str, is_open: float) -> float:
    """Return an end of an interval; infinite where noise leaves it open."""
    end = row.values[key]
    return is_open if end is None else float(end)


def _mark(axes: Axes, y: int, row: _Row) -> None:
    """Draw one row's estimate and interval."""
    if row.kind == "head":
        return
    if row.kind == "prediction":
        ends = [float(row.values["prediction_low"]), float(row.values["prediction_high"])]
        axes.plot(ends, [y, y], color=RED, marker="|", markersize=7)
        return
    middle = float(row.values["estimate"])
    low, high = _end(row, "ci_low", -math.inf), _end(row, "ci_high", math.inf)
    if row.kind in {"total", "mean"}:
        colour = RED if row.kind == "total" else MUTED
        if row.kind == "total":
            axes.axhline(y - 0.5, color=FAINT, linewidth=0.8)
        corners = [(low, y), (middle, y - 0.3), (high, y), (middle, y + 0.3)]
        axes.add_patch(Polygon(corners, facecolor=colour, edgecolor="none", zorder=3))
        return
    left, right = axes.get_xlim()
    axes.plot([max(low, left), min(high, right)], [y, y], color=BLUE, linewidth=1.1)
    alone = row.values.get("sampling")  # of a hospital: what its patients make without the noise
    if alone:
        ends = [max(alone["ci_low"], low, left), min(alone["ci_high"], high, right)]
        axes.plot(ends, [y, y], color=BLUE, linewidth=3.0, solid_capstyle="butt")
    for end, edge, arrow in ((low < left, left, "<"), (high > right, right, ">")):
        if end:
            axes.plot([edge], [y], arrow, color=BLUE, markersize=4, clip_on=False)
    size = 4.0 if row.weight is None else float(np.clip(17 * math.sqrt(row.weight), 2.5, 9))
    axes.plot([middle], [y], "s", color=BLUE, markersize=size, markeredgewidth=0)
