"""The report of `sim fewshot`: one self-contained HTML file on hospitals that were new.

`fewshot_words`, `fewshot_tables` and the pictures choose what it says; `fewshot_page.html` lays it
out, with the part (`fewshot_parts.html`) that a comparison's report has too.
"""

from __future__ import annotations

from typing import Any

from common.report.fewshot_sources import source_tables
from common.report.fewshot_tables import hospital_tables, method_notes
from common.report.fewshot_words import few_shot_verdict, trust
from common.report.figures_fewshot import few_shot_captions
from common.report.layout import fill, numbered
from common.report.loho_words import reach
from common.report.tables import provenance_rows
from common.report.values import Metrics, finite, show


def few_shot_html(metrics: Metrics) -> str:
    """Write the report of new hospitals as one HTML file, styles and pictures inside.

    Args:
        metrics: figures of a run, as `grandrounds sim fewshot --json` prints them.

    Returns:
        The whole file as text; equal metrics give equal text.

    >>> "A few labelled cases: Demo" in few_shot_html({"title": "Demo"})
    True
    """
    title = metrics.get("title") or metrics.get("study") or "Study"
    return fill(
        "fewshot_page.html",
        metrics,
        title=f"A few labelled cases: {title}",
        description=str(metrics.get("description") or ""),
        fewshot=few_shot_section(metrics),
        reach=reach(metrics),
        pictures=numbered(
            (name, draw(metrics), label, caption, absent)
            for name, (draw, label, caption, absent) in few_shot_captions(metrics).items()
        ),
        centres=_centres(metrics),
        footer=_footer(metrics),
    )


def few_shot_section(table: Metrics) -> dict[str, Any]:
    """Return what the part on new hospitals says in words and tables, for either report.

    Args:
        table: The part of the metrics that is about new hospitals.
    """
    return {
        "verdict": few_shot_verdict(table),
        "trust": trust(table),
        "methods": method_notes(table),
        "tables": hospital_tables(table),
        "sources": source_tables(table),
    }


def _centres(metrics: Metrics) -> list[tuple[str, list[str], str]]:
    rows = metrics.get("centres") or []
    keys = ("declared", "patients", "records")
    return [
        (
            str(row.get("name")),
            [show(row.get(key), 0) for key in keys],
            str(row.get("status") or ""),
        )
        for row in rows
    ]


def _footer(metrics: Metrics) -> list[tuple[str, str]]:
    rows = [row for row in provenance_rows(metrics) if row[0] != "Seeds"]
    seed, count = finite(metrics.get("seed")), finite(metrics.get("episodes"))
    known = [f"seed {seed:.0f}"] if seed is not None else []
    known += [f"{count:.0f} episodes"] if count is not None else []
    return rows[:2] + ([("Randomness", ", ".join(known))] if known else []) + rows[2:]
