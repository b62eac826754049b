"""Pictures of what the hospitals released: calibration and net benefit, a panel a hospital.

Each is a pure function from the metrics of a run to one `<svg>` element with a title and a
description for screen readers, or an empty string where there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from common.report.drawing import (
    BLUE,
    INK,
    MAX_PANELS,
    MUTED,
    Drawing,
    render,
    short_name,
    small_multiples,
)
from common.report.values import Metrics, Site, finite, show, sites_with


def reliability(histogram: Mapping[str, Any]) -> list[tuple[float, float, float, float]]:
    """Turn a noisy histogram of scores by outcome into points of a calibration curve.

    The variance of a bin's event rate is the sampling part, with one patient added to either
    outcome so that a rate of 0 or 1 has an interval, plus the noise part by the delta method,
    sigma^2 (rate^2 + (1 - rate)^2) / n^2. A bin whose noisy count is not above twice the noise's
    standard deviation, sqrt(2) sigma, says nothing and is left out.

    Args:
        histogram: `edges` (bins + 1,), `negative` and `positive` (bins,) in noisy patients,
            `sigma` the noise's standard deviation in patients.

    Returns:
        (middle of the bin, event rate, low, high) for each bin kept, a 95% interval.

    >>> reliability({"edges": [0, 1], "negative": [50], "positive": [50], "sigma": 0})
    ... # doctest: +ELLIPSIS
    [(0.5, 0.5, 0.402..., 0.597...)]
    """
    sigma = finite(histogram.get("sigma")) or 0.0
    edges, points = histogram["edges"], []
    bins = zip(edges, edges[1:], histogram["negative"], histogram["positive"], strict=False)
    for left, right, negative, positive in bins:
        count = (negative or 0.0) + (positive or 0.0)
        if count <= max(2 * math.sqrt(2) * sigma, 0.5):
            continue
        rate = min(max((positive or 0.0) / count, 0.0), 1.0)
        points.append(((left + right) / 2, rate, *rate_interval(rate, count, sigma=sigma)))
    return points


def rate_interval(rate: float, count: float, *, sigma: float = 0.0) -> tuple[float, float]:
    """Return the 95% interval of an event rate among `count` patients; see `reliability`."""
    eased = (rate * count + 1) / (count + 2)
    noise = sigma**2 * (rate**2 + (1 - rate) ** 2) / count**2
    half = 1.96 * math.sqrt(eased * (1 - eased) / (count + 2) + noise)
    return max(rate - half, 0.0), min(rate + half, 1.0)


def draw_reliability(
    axes: Axes, points: Sequence[tuple[float, float, float, float]], *, otherwise: str
) -> None:
    """Draw points (score, rate, low, high) against the diagonal, or say why there are none."""
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    if points:
        x, y, low, high = (list(row) for row in zip(*points, strict=True))
        bars = [
            [b - a for a, b in zip(low, y, strict=True)],
            [b - a for a, b in zip(y, high, strict=True)],
        ]
        axes.errorbar(
            x,
            y,
            yerr=bars,
            fmt="o",
            color=BLUE,
            ecolor="#7fa9cb",
            elinewidth=1.2,
            markeredgecolor="white",
            markersize=5,
            clip_on=False,
        )
    else:
        axes.text(0.95, 0.12, otherwise, ha="right", color=MUTED)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])


def calibration(metrics: Metrics) -> str:
    """Draw observed against predicted risk from the released histograms, a panel a hospital.

    Args:
        metrics: figures of a run; uses `sites[].private.histogram`.

    Returns:
        An SVG element with the twelve largest hospitals, or an empty string without histograms.

    >>> calibration({"sites": []})
    ''
    """
    return render(_calibration, metrics, name="calibration")


def _calibration(metrics: Metrics) -> Drawing | None:
    """The picture of `calibration`."""
    sites = sites_with(metrics, "histogram")[:MAX_PANELS]
    if not sites:
        return None
    figure, panels = small_multiples(
        len(sites), 1.9, xlabel="predicted risk", ylabel="observed share with the disease"
    )
    said = []
    for axes, site in zip(panels, sites, strict=True):
        points = reliability(site["private"]["histogram"])
        draw_reliability(axes, points, otherwise="all bins lost\nin the noise")
        slope = show(site["private"].get("calibration_slope"), 2)
        axes.set_title(short_name(site, 20), pad=13)
        axes.text(0, 1.035, f"slope {slope}", transform=axes.transAxes, color=MUTED, fontsize=7.5)
        said.append(f"{short_name(site)} slope {slope}, {len(points)} bins shown")
    return Drawing(figure, "Calibration by hospital", "; ".join(said) + ".")


def _benefit_rows(site: Site) -> list[Mapping[str, Any]]:
    """A hospital's net benefits that are defined, in the order of the threshold."""
    rows = [r for r in site["private"]["net_benefit"] if finite(r.get("value")) is not None]
    return sorted(rows, key=lambda row: float(row["threshold"]))


def decision_curves(metrics: Metrics) -> str:
    """Draw net benefit against the threshold of treatment, a panel a hospital.

    Vickers and Elkin, Decision curve analysis, Medical Decision Making 26 (2006).

    Args:
        metrics: figures of a run; uses `sites[].private.net_benefit`.

    Returns:
        An SVG element with the twelve largest hospitals, or an empty string without the figures.

    >>> decision_curves({"sites": []})
    ''
    """
    return render(_decision_curves, metrics, name="decision-curves")


def _decision_curves(metrics: Metrics) -> Drawing | None:
    """The picture of `decision_curves`."""
    sites = [s for s in sites_with(metrics, "net_benefit") if _benefit_rows(s)][:MAX_PANELS]
    if not sites:
        return None
    figure, panels = small_multiples(
        len(sites), 1.55, xlabel="threshold of treatment", ylabel="net benefit"
    )
    tops = [0.1]
    for axes, site in zip(panels, sites, strict=True):
        rows = _benefit_rows(site)
        x = [row["threshold"] for row in rows]
        lines = {
            key: [finite(row.get(key)) for row in rows]
            for key in ("value", "low", "high", "treat_all")
        }
        y = {k: [math.nan if v is None else v for v in line] for k, line in lines.items()}
        axes.axhline(0, color=INK, linewidth=0.9, label="treat nobody")
        axes.plot(x, y["treat_all"], color=MUTED, linestyle=(0, (4, 2)), label="treat everybody")
        axes.fill_between(x, y["low"], y["high"], color=BLUE, alpha=0.17, linewidth=0)
        axes.plot(
            x,
            y["value"],
            color=BLUE,
            marker="o" if len(x) == 1 else "",
            linewidth=1.8,
            label="shared model, 95% interval",
        )
        axes.set_title(short_name(site, 20))
        tops += [v for k in ("value", "high") for v in lines[k] if v is not None]
    # Treating everybody falls without a floor: the picture stops where it no longer informs.
    panels[0].set_ylim(-0.25 * max(tops), 1.05 * max(tops))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3)
    names = ", ".join(short_name(site) for site in sites)
    return Drawing(figure, "Net benefit by hospital", f"Decision curves of {names}.")
