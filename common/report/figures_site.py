"""Pictures of a site's own report: the budget as it was spent, and calibration on its patients."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

import matplotlib.dates
from matplotlib.axes import Axes

from common.report.drawing import (
    MAX_PANELS,
    MUTED,
    RED,
    WIDTH,
    Drawing,
    blank,
    render,
    short_name,
    small_multiples,
)
from common.report.figures_learning import COLOURS
from common.report.figures_released import draw_reliability, rate_interval
from common.report.site_values import Judged, ModelRow, SiteValues
from common.report.values import Metrics, finite, show

FORMS = {"received": "as received", "adapted": "adapted here", "local": "own patients alone"}
_FEWEST_MINUTES = 10  # so that a study of seconds is not a line without width


def burn_down(values: SiteValues) -> str:
    """Draw epsilon spent over time, study upon study, against the policy's limit.

    Cohorts that have a budget of their own have a panel of their own.

    Returns:
        An SVG element, or an empty string where nothing was spent or nothing was promised.
    """
    return render(_burn_down, cast(Metrics, values), name="burn-down")


def _burn_down(metrics: Metrics) -> Drawing | None:
    values = cast(SiteValues, metrics)
    rows = [row for row in values["spending"] if finite(row["epsilon"])]
    limit = finite(values["limit"].get("epsilon"))
    if not rows:
        return None
    groups = list(dict.fromkeys(row["cohorts"] for row in rows))
    figure = blank(WIDTH, 2.9 * len(groups))
    panels = figure.subplots(len(groups), squeeze=False).flat
    said = []
    for axes, group in zip(panels, groups, strict=True):
        own = [row for row in rows if row["cohorts"] == group]
        total = _budget_panel(axes, own, limit)
        of = f" of cohort {group}" if len(groups) > 1 else ""
        if of:
            axes.set_title(f"cohort {group}")
        said.append(f"Epsilon of all studies{of} together is {show(total)} after {own[-1]['at']}; ")
    return Drawing(
        figure, "Budget spent over time", "".join(said) + f"the policy's limit is {show(limit)}."
    )


def _budget_panel(axes: Axes, rows: list[Any], limit: float | None) -> float:
    """Draw what one group of cohorts spent; return what it has come to."""
    total = _stack(axes, rows)
    if limit is not None:
        axes.axhline(limit, color=RED, linestyle=(0, (5, 3)), linewidth=1.1)
        axes.annotate(
            f"policy's limit: {limit:.3g}",
            (0, limit),
            (4, 3),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            color=RED,
        )
    axes.set(ylabel="epsilon spent")
    axes.set_ylim(0, max(total, limit or 0.0) * 1.18)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return total


def _stack(axes: Axes, rows: list[Any]) -> float:
    """Draw one band a study, in the order in which they began; return where they end."""
    times = [_time(row["at"]) for row in rows]
    end = max(times[-1], times[0] + timedelta(minutes=_FEWEST_MINUTES))
    margin = (end - times[0]) * 0.04
    edges = [times[0] - margin, *times, end + margin]
    numbers = matplotlib.dates.date2num(edges)  # type: ignore[no-untyped-call]
    x = [float(number) for number in numbers]
    below = [0.0] * len(edges)
    for number, study in enumerate(dict.fromkeys(row["study"] for row in rows)):
        spent, heights = 0.0, [0.0]
        for row in rows:
            spent = float(row["epsilon"]) if row["study"] == study else spent
            heights.append(spent)
        heights.append(spent)
        above = [low + height for low, height in zip(below, heights, strict=True)]
        colour = COLOURS[number % len(COLOURS)]
        axes.fill_between(x, below, above, step="post", color=colour, alpha=0.25, linewidth=0)
        first = next(i for i, height in enumerate(heights) if height)
        axes.step(
            [x[first], *x[first:]],
            [below[first], *above[first:]],
            where="post",
            color=colour,
            label=short_name(study),
        )
        below = above
    axes.xaxis_date(tz="UTC")
    locator = matplotlib.dates.AutoDateLocator(tz="UTC")  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = matplotlib.dates.ConciseDateFormatter(locator, tz="UTC")  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    axes.set_xlim(x[0], x[-1])
    return below[-1]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def calibration_here(values: SiteValues) -> str:
    """Draw observed against predicted risk on the site's holdout, as received and as adapted.

    Returns:
        An SVG element of at most twelve panels, or an empty string without such figures.
    """
    return render(_calibration_here, cast(Metrics, values), name="site-calibration")


def _calibration_here(metrics: Metrics) -> Drawing | None:
    values = cast(SiteValues, metrics)
    found = [
        (model, form, model["judged"][form])
        for model in values["models"]
        for form in ("received", "adapted")
        if form in model["judged"] and model["judged"][form]["tenths"]
    ][:MAX_PANELS]
    if not found:
        return None
    figure, panels = small_multiples(
        len(found), 1.9, xlabel="predicted risk", ylabel="observed share with the disease"
    )
    said = []
    for axes, (model, form, judged) in zip(panels, found, strict=True):
        said.append(_panel(axes, model, form, judged))
    return Drawing(figure, "Calibration on this hospital's own patients", "; ".join(said) + ".")


def _panel(axes: Axes, model: ModelRow, form: str, judged: Judged) -> str:
    points = [(score, rate, *rate_interval(rate, count)) for score, rate, count in judged["tenths"]]
    draw_reliability(axes, points, otherwise="no patients")
    axes.set_title(short_name(model["study"], 20), pad=13)
    figures = judged["figures"]
    ratio = show(figures.get("observed_expected"), 2)
    text = f"{FORMS[form]}: slope {show(figures.get('calibration_slope'), 2)}, O/E {ratio}"
    axes.text(0, 1.035, text, transform=axes.transAxes, color=MUTED, fontsize=7.5)
    return f"{short_name(model['study'])} {text}"
