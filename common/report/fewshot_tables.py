"""The rows of the tables of new hospitals, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report.fewshot_values import (
    FIGURES,
    MEAN,
    Rows,
    cases,
    epsilon_of,
    figures_of,
    gain,
    panels_of,
    rivals_of,
    shots_of,
    with_width,
)
from common.report.values import DASH, Metrics, finite, show


def hospital_tables(table: Metrics) -> list[dict[str, Any]]:
    """List a table for each new hospital, and for their mean where there are several.

    Each has a group of rows for each number of labelled patients, a row a method.

    >>> row = {"accuracy": 0.5, "ci95": 0.1, "recall": 0.4, "p5": 0.2, "p95": 0.8}
    >>> site = {"ways": 3, "shots": {"5": {"scratch": row}}}
    >>> found = hospital_tables({"shots": ["5"], "held_out": {"a": site}})[0]
    >>> found["title"], found["groups"][0]["rows"][0]["cells"]
    ('a: 3 classes', ['–', '0.500 ± 0.100', '0.20 to 0.80', '0.400'])
    """
    return [_hospital(table, name, shots) for name, shots in panels_of(table)]


def _hospital(table: Metrics, name: str, shots: Mapping[str, Rows]) -> dict[str, Any]:
    figures, is_mean = figures_of(shots), name == MEAN
    rivals = [] if is_mean else rivals_of(table)
    groups = []
    for k in shots_of(table):
        rows = [
            {"name": method, "cells": _cells(row, figures, rivals, is_mean=is_mean)}
            for method, row in (shots.get(k) or {}).items()
        ]
        groups.append({"label": f"With {cases(k)}", "rows": rows})
    heads = _heads(table, figures, rivals, is_mean=is_mean)
    return {"title": title_of(table, name), "heads": heads, "groups": groups}


def title_of(table: Metrics, name: str) -> str:
    """Name a table: the hospital and its classes, or how many hospitals a mean is over."""
    if name == MEAN:
        return f"Mean over {len(table.get('held_out') or {})} hospitals, each new in turn"
    site = (table.get("held_out") or {})[name]
    ways, classes = finite(site.get("ways")) or 0, finite(site.get("classes"))
    drawn = f", {ways:.0f} an episode" if classes is not None and classes != ways else ""
    return f"{name}: {ways if classes is None else classes:.0f} classes{drawn}"


def _heads(table: Metrics, figures: list[str], rivals: list[str], *, is_mean: bool) -> list[str]:
    heads = ["Epsilon", "Accuracy", *([] if is_mean else ["5th to 95th %"]), "Recall"]
    measure = FIGURES.get(str(table.get("measure")), "accuracy")
    others = [FIGURES[name] for name in figures if name != "accuracy"]
    return [*heads, *others, *(f"{measure} over {rival}" for rival in rivals)]


def _cells(
    row: Mapping[str, Any], figures: list[str], rivals: list[str], *, is_mean: bool
) -> list[str]:
    spread = [] if is_mean else [_ends(row)]
    others = [with_width(row, name) for name in figures if name != "accuracy"]
    gains = [] if is_mean else [gain(row, rival) for rival in rivals]
    return [epsilon_of(row), with_width(row, "accuracy"), *spread, show(row.get("recall")),
            *others, *gains]  # fmt: skip


def _ends(row: Mapping[str, Any]) -> str:
    low, high = finite(row.get("p5")), finite(row.get("p95"))
    return DASH if low is None or high is None else f"{show(low, 2)} to {show(high, 2)}"


def method_notes(table: Metrics) -> list[tuple[str, str]]:
    """List the methods, what each is and whether what it starts from was learnt privately."""
    rows = []
    for name, method in (table.get("methods") or {}).items():
        epsilon = epsilon_of(method)
        private = f"; trained with epsilon {epsilon}" if epsilon != DASH else ""
        kept = "not private" if method.get("arm") not in (None, "untrained") else "nothing left"
        note = str(method.get("note") or "")
        rows.append((str(name), f"{note[:1].upper()}{note[1:]}{private or f'; {kept}'}."))
    return rows
