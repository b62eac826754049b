"""How the report reads the figures of new hospitals: methods, numbers of cases, what is compared.

All of it reads the part of the metrics that `sim fewshot` and `sim run` have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report.values import DASH, Metrics, finite, show

FEW_SHOT = "few labelled cases"  # what such metrics call themselves
MEAN = "mean over hospitals"
FIGURES = {"accuracy": "accuracy", "auc": "AUC", "wss95": "WSS@95"}

Rows = Mapping[str, Mapping[str, Any]]


def shots_of(table: Metrics) -> list[str]:
    """List the numbers of labelled patients a class, as the run was asked for them."""
    return [str(number) for number in table.get("shots") or []]


def cases(shots: str) -> str:
    """Name a number of labelled patients.

    >>> cases("1"), cases("20")
    ('1 labelled patient a class', '20 labelled patients a class')
    >>> cases("5/20")
    '5 positive and 20 other labelled patients'
    """
    positive, slash, other = shots.partition("/")
    if slash:
        return f"{positive} positive and {other} other labelled patients"
    return f"{shots} labelled patient{'' if shots == '1' else 's'} a class"


def panels_of(table: Metrics) -> list[tuple[str, Mapping[str, Rows]]]:
    """List (name, shots -> method -> figures): the mean of several hospitals first, then each."""
    held_out = table.get("held_out") or {}
    panels = [(str(name), site.get("shots") or {}) for name, site in held_out.items()]
    if len(panels) > 1:
        panels.insert(0, (MEAN, table.get("mean") or {}))
    return panels


def figures_of(shots: Mapping[str, Rows]) -> list[str]:
    """List the figures that any method has at a hospital, the accuracy first.

    >>> figures_of({"5": {"scratch": {"auc": 0.7, "accuracy": 0.6}}})
    ['accuracy', 'auc']
    """
    rows = [row for found in shots.values() for row in found.values()]
    return [name for name in FIGURES if any(finite(row.get(name)) is not None for row in rows)]


def with_width(row: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """Write a figure with half the width of its interval.

    >>> with_width({"accuracy": 0.5, "ci95": 0.012}, "accuracy")
    '0.500 ± 0.012'
    """
    half = row.get("ci95" if name == "accuracy" else f"{name}_ci95")
    value = show(row.get(name), digits)
    return value if value == DASH or finite(half) is None else f"{value} ± {show(half, digits)}"


def epsilon_of(row: Mapping[str, Any]) -> str:
    """Write a method's epsilon, an en dash where it is not private."""
    value = finite(row.get("epsilon"))
    return DASH if value is None else f"{value:.3g}"


def gain(row: Mapping[str, Any], rival: str) -> str:
    """Write by how much a method is better than another, with half the interval's width.

    >>> gain({"over": {"scratch": {"difference": 0.05, "ci95": 0.01}}}, "scratch")
    '+0.050 ± 0.010'
    """
    over = (row.get("over") or {}).get(rival)
    if over is None:
        return DASH
    value = finite(over.get("difference")) or 0.0
    return f"{'+' if round(value, 3) > 0 else ''}{show(value)} ± {show(over.get('ci95'))}"


def rivals_of(table: Metrics) -> list[str]:
    """List the baselines that methods are held against, where they ran."""
    found: dict[str, None] = {}
    for site in (table.get("held_out") or {}).values():
        for rows in (site.get("shots") or {}).values():
            for row in rows.values():
                found |= dict.fromkeys(row.get("over") or {})
    return list(found)
