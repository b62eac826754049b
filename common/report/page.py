"""The study report: one self-contained HTML file from the figures of a run.

`words`, `tables` and `pictures` choose what it says; `page.html` only lays it out. Nothing is
fetched and no script runs, so the file reads the same on an ethics board's computer without a
network.
"""

from __future__ import annotations

from importlib import resources

import jinja2

from common.report.pictures import pictures
from common.report.tables import (
    arm_rows,
    privacy_rows,
    provenance_rows,
    release_rows,
    released_rows,
    site_rows,
)
from common.report.values import Metrics, finite
from common.report.words import (
    EXACT,
    REBUILD,
    accuracy_line,
    epsilon_line,
    gate_label,
    is_private,
    verdict,
)


def report_html(metrics: Metrics) -> str:
    """Write the report of a run as one HTML file with its styles and pictures inside.

    Args:
        metrics: figures of a run, as `grandrounds sim run --json` prints them. Anything missing
            is shown as an en dash, or its section says why it is absent.

    Returns:
        The whole file as text; equal metrics give equal text.

    >>> "Not private" in report_html({"title": "Demo", "privacy": {"private": False}})
    True
    """
    source = resources.files("common.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(source)
    text = page.render(
        title=str(metrics.get("title") or metrics.get("study") or "Study report"),
        study=str(metrics.get("study") or ""),
        verdict=verdict(metrics),
        accuracy=accuracy_line(metrics),
        epsilon=epsilon_line(metrics),
        private=is_private(metrics),
        privacy=privacy_rows(metrics),
        statement=(metrics.get("privacy") or {}).get("statement"),
        releases=release_rows(metrics),
        main=str(metrics.get("main_arm") or "main arm"),
        arms=arm_rows(metrics),
        seeds=int(finite(metrics.get("seeds")) or 1),
        sites=site_rows(metrics),
        released=released_rows(metrics),
        exact=EXACT,
        gate=gate_label(metrics),
        pictures=pictures(metrics),
        footer=provenance_rows(metrics),
        rebuild=REBUILD,
    )
    return text.strip() + "\n"
