"""The page of a meta-analysis: what was pooled, how studies differ, whether to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report import figures_meta, figures_meta_bias
from common.report.layout import fill, numbered
from common.report.meta_tables import p_value, tables, told
from common.report.values import finite, show

_DRAWN = {
    "forest": (
        figures_meta.forest,
        "A square is a study, as large as its weight; its line is the 95% interval, an arrow where "
        "that leaves the picture. The diamond is the pooled mean. The last line is the interval in "
        "which the true value of a new study is expected. Dotted: no effect.",
        "",
    ),
    "funnel": (
        figures_meta_bias.funnel,
        "Small studies are low. Without bias they scatter evenly about the red line. Shades are "
        "p-values about no effect: studies missing where p is above .1 point to results kept back, "
        "studies missing elsewhere to something else. Open: filled in by trim and fill.",
        "No funnel: it takes three studies.",
    ),
    "cumulative": (
        figures_meta.cumulative,
        "The pooled mean as studies come in, one a line.",
        "One study: there is nothing to add up.",
    ),
    "baujat": (
        figures_meta_bias.baujat,
        "To the right stand studies that differ from the rest, high up those that move the mean.",
        "",
    ),
    "influence": (
        figures_meta_bias.influence,
        "What pooling loses with each study. Red: influential by one of metafor\u2019s rules.",
        "",
    ),
}


def draw(values: Mapping[str, Any]) -> dict[str, str]:
    """Draw every picture that the values have; SVG by name, without those that are empty."""
    drawn = {name: made[0](values) for name, made in _DRAWN.items()}
    return {name: svg for name, svg in drawn.items() if svg}


def meta_html(
    values: Mapping[str, Any], *, title: str, command: str, drawn: Mapping[str, str] | None = None
) -> str:
    """Write the page as one HTML file with its styles and pictures inside.

    Args:
        values: as `common.meta.analysis.analyse` returns them.
        title: of the page.
        command: the whole command that makes it again.
        drawn: the pictures, if they are drawn already.

    Returns:
        The whole file as text; equal values give equal text.
    """
    svg = draw(values) if drawn is None else drawn
    label = f"{values['measure_name']}, {values['model']}"
    return fill(
        "meta_page.html",
        {"title": title, "study": title},
        verdict=verdict(values),
        second=_second(values),
        tables=tables(values),
        pictures=numbered(
            (name, svg.get(name, ""), label, caption, absent)
            for name, (_, caption, absent) in _DRAWN.items()
        ),
        prediction=((values.get("regression") or {}).get("prediction") or {}).get("verdict"),
        notes=values["notes"],
        footer=[("Measure", values["measure_name"]), ("Model", values["model"]),
                ("Studies", str(values["k"]))],
        rebuild=command,
    )  # fmt: skip


def verdict(values: Mapping[str, Any]) -> str:
    """Say the pooled mean, and what a new study may expect, in a sentence."""
    studies = "One study" if values["k"] == 1 else f"{values['k']} studies"
    found = f"{studies}: {values['measure_name']} {told(values)}"
    if finite(values.get("prediction_low")) is not None:
        found += f"; in a new study its true value is expected within {told(values, 'prediction')}"
    return f"{found}."


def _second(values: Mapping[str, Any]) -> str:
    if values["k"] == 1:
        return "Its own estimate, with a 95% interval."
    share = f"{100 * values['i2']:.1f}%"
    return (f"Means with 95% intervals. Of the spread of the estimates {share} is more than chance "
            f"(I\u00b2); Q {show(values['q'], 2)}, p {p_value(values['q_p'])}.")  # fmt: skip
