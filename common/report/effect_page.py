"""The report of a study of an effect: what each hospital released, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report.figures_meta import forest
from common.report.layout import fill, numbered
from common.report.meta_page import verdict
from common.report.meta_tables import answer, told
from common.report.tables import provenance_rows
from common.report.values import Metrics, show
from common.report.words import RELEASED, RELEASED_PLAIN, is_private

_CAPTION = (
    "A square is a hospital, as large as its weight. Of its 95% interval the thick part is what "
    "its patients alone would make, the thin part what the noise adds; an arrow where it leaves "
    "the picture. The diamond is the pooled effect. Dotted: no effect."
)
_OPEN = "open"


def effect_html(metrics: Metrics) -> str:
    """Write the report as one HTML file with its styles and the picture inside.

    Args:
        metrics: of a run, as `grandrounds sim run --json` prints them for a study of an effect.

    Returns:
        The whole file as text; equal metrics give equal text.
    """
    pooled = metrics.get("pooled")
    label = RELEASED if is_private(metrics) else RELEASED_PLAIN
    absent = f"No forest plot: {metrics.get('why')}."
    svg = forest(pooled) if pooled else ""
    return fill(
        "effect_page.html",
        metrics,
        description=str(metrics.get("description") or ""),
        verdict=verdict(pooled) if pooled else f"{metrics.get('why')}.",
        width=width_line(pooled) if pooled else "",
        counted=str(metrics.get("counted") or ""),
        answer=answer(pooled) if pooled else [],
        sites=[site_row(site) for site in metrics.get("sites") or []],
        exact=exact_line(metrics),
        notes=pooled["notes"] if pooled else [],
        pictures=numbered([("forest", svg, label, _CAPTION, absent)]),
        gate=label,
        footer=provenance_rows(metrics),
    )


def width_line(pooled: Mapping[str, Any]) -> str:
    """Say what makes the pooled interval as wide as it is.

    >>> width_line({"width": {"patients": 0.6, "hospitals": 0.0, "noise": 0.4}, "k": 3})
    'Of its variance 60% is patients, 0% hospitals differing and 40% privacy noise.'
    """
    patients, hospitals, noise = (pooled["width"][n] for n in ("patients", "hospitals", "noise"))
    return (
        f"Of its variance {patients:.0%} is patients, {hospitals:.0%} hospitals differing and "
        f"{noise:.0%} privacy noise."
    )


def exact_line(metrics: Metrics) -> str:
    """Say what the exact tables of a simulation's hospitals come to; '' where they are not known.

    >>> exact_line({})
    ''
    """
    exact = metrics.get("exact")
    if not exact or not exact["pooled"]:
        return ""
    return (
        f"From the exact tables of all {exact['hospitals']} hospitals, which would not leave them: "
        f"{told(exact['pooled'])}, pooled in the same way."
    )


def site_row(site: Mapping[str, Any]) -> list[str]:
    """Return a hospital's row: name, size, released numbers, effect, standard errors, remark."""
    effect, table = site.get("effect"), site.get("table")
    name, size = str(site["name"]), show(site.get("declared"), 0)
    if not effect or not table:
        return [name, size, "", "", "", str(site.get("status") or "")]
    arms = [", ".join(f"{value:.1f}" for value in table[arm]) for arm in ("treated", "control")]
    errors = [show(effect.get(key), 2) for key in ("sampling_se", "noise_se")]
    return [
        name,
        size,
        " | ".join(arms),
        interval(effect),
        ", ".join(errors) if effect["estimate"] is not None else "",
        effect["why"] or effect["note"],
    ]


def interval(effect: Mapping[str, Any]) -> str:
    """Return a hospital's effect with its interval, on the reader's scale.

    >>> interval({"estimate": None, "ci_low": None, "ci_high": 0.5, "ratio": None})
    'too noisy (open to 0.50)'
    """
    shown = effect.get("ratio") or effect.get("auc") or effect
    value = "too noisy" if shown["estimate"] is None else show(shown["estimate"], 2)
    ends = [shown["ci_low"], shown["ci_high"]]
    if ends == [None, None]:
        return value if shown["estimate"] is None else f"{value} (open)"
    low, high = (_OPEN if end is None else show(end, 2) for end in ends)
    return f"{value} ({low} to {high})"
