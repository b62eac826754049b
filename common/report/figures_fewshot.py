"""Pictures of new hospitals: what a few labelled cases are worth, method by method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from common.report.drawing import (
    INK,
    MAX_PANELS,
    MUTED,
    WIDTH,
    Drawing,
    blank,
    render,
    short_name,
)
from common.report.fewshot_values import FIGURES, figures_of, panels_of, shots_of
from common.report.values import Metrics, finite, show
from common.report.words import EXACT

_COLOURS = ("#0b5c99", "#b8460e", "#00795c", "#9c3f7c", "#5a4fa2", "#8a6500", "#2f86c4", "#7a3b12")
_MARKS = {"prototype": "o", "nearest": "h", "logistic": "s", "svm": "D", "fine_tune": "^",
          "gradual": "v", "adapt": "P", "prior": "X"}  # fmt: skip


def few_shot_captions(
    table: Metrics,
) -> dict[str, tuple[Callable[[Metrics], str], str, str, str]]:
    """List the pictures of new hospitals: how to draw, label, how to read, why it may be absent."""
    known = {name for _, shots in panels_of(table) for name in figures_of(shots)}
    names = [name for name in FIGURES if name in known & {"accuracy", table.get("measure")}]
    cut = len(panels_of(table)) - MAX_PANELS
    note = f" {cut} more hospitals are in the tables alone." if cut > 0 else ""
    return {
        f"fewshot_{name}": (
            partial(_picture, table, name),
            EXACT,
            f"{FIGURES[name][:1].upper()}{FIGURES[name][1:]} on the other patients of a hospital "
            "that took no part in training. Bars are 95% intervals of the mean over episodes. "
            "Dashes: learnt under differential privacy; dots: a baseline of the labelled cases "
            f"alone; open marks: with pixels or gradients beside the body.{note}",
            "No method was judged.",
        )
        for name in names
    }


def _picture(table: Metrics, figure: str, _: Metrics) -> str:
    return by_cases(table, figure)


def by_cases(table: Metrics, figure: str = "accuracy") -> str:
    """Draw a figure of every method by the number of labelled patients, a panel a hospital.

    Args:
        table: The part of the metrics that is about new hospitals.
        figure: 'accuracy', 'auc' or 'wss95'.

    Returns:
        An SVG element; empty where no method has the figure.

    >>> by_cases({"held_out": {}})
    ''
    """
    return render(partial(_by_cases, figure=figure), table, name=f"fewshot-{figure}")


def _by_cases(table: Metrics, *, figure: str) -> Drawing | None:
    """The picture of `by_cases`."""
    panels = panels_of(table)[:MAX_PANELS]
    methods = [
        name
        for name in table.get("methods") or {}
        if any(_points(table, shots, name, figure) for _, shots in panels)
    ]
    if not methods:
        return None
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    height = 0.35 + 2.3 * rows + 0.17 * math.ceil(len(methods) / 3)
    drawing = blank(WIDTH, height)
    axes = list(drawing.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for spare in axes[len(panels) :]:
        spare.set_visible(False)
    said = []
    for axis, (name, shots) in zip(axes, panels, strict=False):
        axis.set(title=short_name(name), xticks=range(len(shots_of(table))))
        axis.set_xticklabels(shots_of(table))
        axis.margins(x=0.12)
        words = [_line(axis, table, shots, method, figure) for method in methods]
        said.append(f"{short_name(name)}: {'; '.join(words)}")
    drawing.supxlabel("labelled patients of each class", fontsize=8)
    drawing.supylabel(FIGURES[figure], fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=3)
    title = f"{FIGURES[figure]} by number of labelled patients".capitalize()
    return Drawing(drawing, title, ". ".join(said) + ".")


def _points(
    table: Metrics, shots: Mapping[str, Any], method: str, figure: str
) -> list[tuple[int, float, float]]:
    """List (place on the axis, figure, half its interval) of a method."""
    found = []
    for place, k in enumerate(shots_of(table)):
        row = (shots.get(k) or {}).get(method) or {}
        value = finite(row.get(figure))
        if value is not None:
            half = finite(row.get("ci95" if figure == "accuracy" else f"{figure}_ci95"))
            found.append((place, value, half or 0.0))
    return found


def _line(axes: Axes, table: Metrics, shots: Mapping[str, Any], method: str, figure: str) -> str:
    """One method: a colour an arm, a mark a use, dashes for what was learnt privately."""
    known = (table.get("methods") or {}).get(method) or {}
    arms = dict.fromkeys(m.get("arm") for m in (table.get("methods") or {}).values())
    arms.pop(None, None)
    arm, baseline = known.get("arm"), bool(known.get("baseline"))
    colour = _COLOURS[list(arms).index(arm) % len(_COLOURS)] if arm in arms else MUTED
    points = _points(table, shots, method, figure)
    offset = 0.04 * (list(table.get("methods") or {}).index(method) % 5 - 2)
    axes.errorbar(
        [place + offset for place, _, _ in points],
        [value for _, value, _ in points],
        yerr=[half for _, _, half in points],
        color=INK if known.get("use") == "scratch" else colour,
        marker=_MARKS.get(str(known.get("use")), "."),
        markerfacecolor="white" if known.get("beside") else None,
        linestyle=(0, (4, 2)) if known.get("epsilon") is not None else ":" if baseline else "-",
        linewidth=1.2,
        elinewidth=0.8,
        label=short_name(method, 30),
    )
    values = ", ".join(f"{show(v)} at {shots_of(table)[place]}" for place, v, _ in points)
    return f"{short_name(method, 30)} {values}"
