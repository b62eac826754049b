"""The study report: one self-contained HTML file from the figures of a run.

`words`, `tables` and `pictures` choose what it says; `page.html` only lays it out. Nothing is
fetched and no script runs, so the file reads the same on an ethics board's computer without a
network.
"""

from __future__ import annotations

from common.report.fewshot_page import few_shot_section
from common.report.layout import fill
from common.report.pictures import pictures
from common.report.tables import (
    arm_rows,
    provenance_rows,
    published_groups,
    released_rows,
    retrieval_rows,
    site_rows,
)
from common.report.values import (
    Metrics,
    arm_columns,
    finite,
    is_graded,
    of_survival,
    published_columns,
    site_columns,
)
from common.report.words import accuracy_line, gate_label, is_deployed, verdict


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
    return fill(
        "page.html",
        metrics,
        verdict=verdict(metrics),
        accuracy=accuracy_line(metrics),
        arms=arm_rows(metrics),
        columns=arm_columns(metrics),
        graded=is_graded(metrics),
        survival=of_survival(metrics),
        site_columns=site_columns(metrics),
        published_columns=published_columns(metrics),
        seeds=int(finite(metrics.get("seeds")) or 1),
        retrieval=retrieval_rows(metrics),
        retrieved=metrics.get("retrieval") or {},
        published=published_groups(metrics),
        published_note=(metrics.get("published") or {}).get("note"),
        sites=site_rows(metrics),
        released=released_rows(metrics),
        gate=gate_label(metrics),
        pictures=pictures(metrics),
        deployed=is_deployed(metrics),
        missed=metrics.get("missed") or [],
        fewshot=few_shot_section(metrics["fewshot"]) if metrics.get("fewshot") else None,
        footer=provenance_rows(metrics),
    )
