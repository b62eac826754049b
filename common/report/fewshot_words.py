"""What the report says of new hospitals: the verdict, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report.fewshot_values import FIGURES, cases, gain, rivals_of, shots_of, with_width
from common.report.values import DASH, Metrics, finite


def few_shot_verdict(table: Metrics) -> tuple[str, list[str]]:
    """Say which method was best at each new hospital, with the most labelled patients.

    Args:
        table: The part of the metrics that is about new hospitals.

    Returns:
        One sentence: how it opens, and a clause for each hospital.

    >>> rows = {"x": {"accuracy": 0.5, "ci95": 0.01, "over": {}}}
    >>> table = {"shots": ["5"], "held_out": {"a": {"ways": 3, "shots": {"5": rows}}}}
    >>> few_shot_verdict(table)[1]
    ['at a, x is best: accuracy 0.500 ± 0.010 of 3 classes.']
    """
    shots = shots_of(table)
    sites = (table.get("held_out") or {}).items()
    if not shots or not sites:
        return "No hospital was new, so this run supports no comparison.", []
    ends = [clause for name, site in sites if (clause := _clause(table, name, site, shots[-1]))]
    ends = [*[f"{clause};" for clause in ends[:-1]], *[f"{clause}." for clause in ends[-1:]]]
    return f"Of a hospital that took no part, with {cases(shots[-1])}:", ends


def _clause(table: Metrics, name: str, site: Mapping[str, Any], shots: str) -> str | None:
    rows = (site.get("shots") or {}).get(shots) or {}
    measure = str(table.get("measure") or "accuracy")
    known = {m: v for m, row in rows.items() if (v := finite(row.get(measure))) is not None}
    if not known:
        return None
    best = max(known, key=lambda method: known[method])
    row = rows[best]
    gains = [(rival, gain(row, rival)) for rival in rivals_of(table)]
    over = [f"{value} over {rival}" for rival, value in gains if value != DASH]
    said = f"at {name}, {best} is best: {FIGURES[measure]} {with_width(row, measure)}"
    return f"{said} of {site.get('ways')} classes" + (f" ({', '.join(over)})" if over else "")


def trust(table: Metrics) -> str:
    """Say on what the figures stand, and what their intervals leave out."""
    count = finite(table.get("episodes"))
    drawn = f"{count:.0f} episodes" if count is not None else "The episodes"
    queries = table.get("queries")
    judges = "all others" if queries == "all" else f"up to {queries} others of each class"
    return (
        f"{drawn} draw the labelled patients anew, one record each; {judges} judge. All methods "
        "meet the same episodes. ± is half the width of a 95% interval of the mean over episodes "
        "(1.96 s / √n): it is about which patients were labelled, not about other patients, other "
        "hospitals or another training. A single hospital has one draw: look at the 5th to 95th "
        "percentile for what may happen to it. The best of several methods, picked on these very "
        "episodes, looks a little better than it is."
    )
