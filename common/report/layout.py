"""How a page is laid out: one base of style and footer, and a template for each kind of run."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from common.report.tables import privacy_rows, release_rows
from common.report.values import Metrics
from common.report.words import EXACT, REBUILD, epsilon_line, is_private


def fill(template: str, metrics: Metrics, **values: Any) -> str:
    """Fill a template of this package; every text is escaped.

    Args:
        template: File name, such as `page.html`.
        metrics: Figures of a run, for what every page says: title, privacy, how to rebuild it.
        values: What this page says besides.

    Returns:
        The whole file as text.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    common = {
        "title": str(metrics.get("title") or metrics.get("study") or "Study report"),
        "study": str(metrics.get("study") or ""),
        "epsilon": epsilon_line(metrics),
        "private": is_private(metrics),
        "privacy": privacy_rows(metrics),
        "statement": (metrics.get("privacy") or {}).get("statement"),
        "releases": release_rows(metrics),
        "main": str(metrics.get("main_arm") or "main arm"),
        "remarks": list(metrics.get("remarks") or []),
        "exact": EXACT,
        "rebuild": REBUILD,
    }
    return environment.get_template(template).render(common | values).strip() + "\n"


def numbered(
    drawn: Iterable[tuple[str, str, str, str, str]],
) -> dict[str, dict[str, Any]]:
    """Return pictures by name, those that were drawn numbered in order.

    Args:
        drawn: (name, SVG or nothing, label, how to read it, why it may be absent) of each.
    """
    found: dict[str, dict[str, Any]] = {}
    number = 0
    for name, svg, label, caption, absent in drawn:
        number += bool(svg)
        # Safe as it stands: matplotlib and `drawing` escape every text of the values in it.
        picture = {"svg": Markup(svg), "number": number, "label": label}
        found[name] = {**picture, "caption": caption, "absent": absent}
    return found


def _source(name: str) -> str:
    return resources.files("common.report").joinpath(name).read_text(encoding="utf-8")
