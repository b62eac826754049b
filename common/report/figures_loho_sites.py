"""Pictures of hospitals left out, a panel a hospital: calibration and net benefit.

Each is a pure function from the metrics of `sim loho` to one `<svg>` element with a title and a
description for screen readers, or an empty string where there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from common.report.drawing import (
    BLUE,
    INK,
    MAX_PANELS,
    MUTED,
    RED,
    Drawing,
    render,
    short_name,
    small_multiples,
)
from common.report.figures_released import draw_reliability, rate_interval
from common.report.loho_values import by_declared, labelled, main_figures, shots_of
from common.report.values import Metrics, finite, show

Point = tuple[float, float, float, float]


def calibration(metrics: Metrics) -> str:
    """Draw observed against predicted risk by tenths of the score, a panel a hospital.

    The main arm as it is, without labelled patients, on all patients of the hospital left out.

    Args:
        metrics: figures of a run; uses `calibration`, `main_arm`, `centres`, `held_out`.

    Returns:
        An SVG element with the twelve largest hospitals, or an empty string without the figures.

    >>> calibration({"calibration": {}})
    ''
    """
    return render(_calibration, metrics, name="loho-calibration")


def _calibration(metrics: Metrics) -> Drawing | None:
    """The picture of `calibration`."""
    names = [n for n in _names(metrics) if _tenths(metrics, n)][:MAX_PANELS]
    if not names:
        return None
    figure, panels = small_multiples(
        len(names), 1.9, xlabel="predicted risk", ylabel="observed share with the disease"
    )
    said = []
    for axes, name in zip(panels, names, strict=True):
        points = _tenths(metrics, name)
        draw_reliability(axes, points, otherwise="no patients")
        figures = main_figures(metrics, name, 0) or {}
        slope = show(figures.get("calibration_slope"), 2)
        ratio = show(figures.get("observed_expected"), 2)
        axes.set_title(short_name(name, 20), pad=13)
        text = f"slope {slope}, O/E {ratio}"
        axes.text(0, 1.035, text, transform=axes.transAxes, color=MUTED, fontsize=7.5)
        said.append(f"{short_name(name)} {text}, {len(points)} tenths")
    return Drawing(figure, "Calibration by hospital left out", "; ".join(said) + ".")


def _names(metrics: Metrics) -> list[str]:
    return [str(centre["name"]) for centre in by_declared(metrics) if centre.get("name")]


def _tenths(metrics: Metrics, name: str) -> list[Point]:
    """Return (mean score, observed share, low, high) of each tenth in which there are patients."""
    arms = (metrics.get("calibration") or {}).get(name) or {}
    points = []
    for row in arms.get(metrics.get("main_arm")) or []:
        score, rate, count = (finite(value) for value in row)
        if score is not None and rate is not None and count:
            points.append((score, rate, *rate_interval(rate, count)))
    return points


def decision_curves(metrics: Metrics) -> str:
    """Draw net benefit against the threshold of treatment, a panel a hospital.

    Vickers and Elkin, Decision curve analysis, Medical Decision Making 26 (2006).

    Args:
        metrics: figures of a run; uses `held_out`, `shots`, `main_arm`, `centres`.

    Returns:
        An SVG element with the twelve largest hospitals, or an empty string without the figures.

    >>> decision_curves({"held_out": {}})
    ''
    """
    return render(_decision_curves, metrics, name="loho-benefit")


def _decision_curves(metrics: Metrics) -> Drawing | None:
    """The picture of `decision_curves`."""
    shots = shots_of(metrics)[:2]
    names = [n for n in _names(metrics) if any(_benefit(metrics, n, k) for k in shots)][:MAX_PANELS]
    if not names:
        return None
    figure, panels = small_multiples(
        len(names), 1.55, xlabel="threshold of treatment", ylabel="net benefit"
    )
    tops = [0.1]
    for axes, name in zip(panels, names, strict=True):
        tops += _draw_benefit(axes, {k: _benefit(metrics, name, k) for k in shots}, metrics)
        axes.set_title(short_name(name, 20))
    # Treating everybody falls without a floor: the picture stops where it no longer informs.
    panels[0].set_ylim(-0.25 * max(tops), 1.05 * max(tops))
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=2)
    names_said = ", ".join(map(short_name, names))
    return Drawing(figure, "Net benefit by hospital left out", f"Decision curves of {names_said}.")


def _benefit(metrics: Metrics, name: str, shots: int) -> list[Mapping[str, Any]]:
    """A hospital's net benefits that are defined, in the order of the threshold."""
    rows = (main_figures(metrics, name, shots) or {}).get("net_benefit") or []
    known = [r for r in rows if None not in (finite(r.get("value")), finite(r.get("threshold")))]
    return sorted(known, key=lambda row: float(row["threshold"]))


def _draw_benefit(
    axes: Axes, curves: Mapping[int, list[Mapping[str, Any]]], metrics: Metrics
) -> list[float]:
    """Draw a hospital's curves; returns their heights."""
    axes.axhline(0, color=INK, linewidth=0.9, label="treat nobody")
    everybody = next((rows for rows in curves.values() if rows), [])
    axes.plot(
        [row["threshold"] for row in everybody],
        [math.nan if (v := finite(row.get("treat_all"))) is None else v for row in everybody],
        color=MUTED,
        linestyle=(0, (4, 2)),
        label="treat everybody",
    )
    heights = [v for row in everybody if (v := finite(row.get("treat_all"))) is not None]
    for (shots, rows), colour, mark in zip(curves.items(), (RED, BLUE), ("s", "o"), strict=False):
        values = [float(row["value"]) for row in rows]
        axes.plot(
            [row["threshold"] for row in rows],
            values,
            color=colour,
            marker=mark,
            markersize=4,
            label=f"{short_name(str(metrics.get('main_arm')))} with {labelled(shots)}",
        )
        heights += values
    return heights
