"""The rows of the report's tables, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report.values import (
    DASH,
    Metrics,
    Site,
    arm_columns,
    by_size,
    finite,
    published_columns,
    show,
    site_columns,
    took_part,
)
from common.report.words import is_private


def _short(value: object) -> str:
    """A setting to four significant digits, without trailing zeros."""
    number = finite(value)
    return DASH if number is None else f"{number:.4g}"


def privacy_rows(metrics: Metrics) -> list[tuple[str, str]]:
    """List what an ethics board asks of a guarantee: each term and its value, as text.

    >>> privacy_rows({"split": "keyed hash of the patient id"})
    [('Split', 'keyed hash of the patient id')]
    """
    p = metrics.get("privacy") or {}
    split = [("Split", str(metrics["split"]))] if metrics.get("split") else []
    if not is_private(metrics):
        return split
    check = finite(p.get("epsilon_prv"))
    return [
        ("Epsilon", f"{p['epsilon']:.4g}"),
        ("Delta", f"{p['delta']:.2g}"),
        ("Unit", str(p.get("unit") or DASH)),
        ("Adjacency", str(p.get("adjacency") or DASH)),
        ("Accountant", str(p.get("accountant") or DASH)),
        ("Cross-check (PRV)", DASH if check is None else f"epsilon {check:.4g}"),
        ("Noise multiplier, sigma", _short(p.get("sigma"))),
        ("Clipping norm", _short(p.get("clip"))),
        ("Sampling rate", _short(p.get("sampling_rate"))),
        ("Private steps", show(p.get("steps"), 0)),
        ("Noise generator", str(p.get("noise") or DASH)),
        *split,
    ]


def release_rows(metrics: Metrics) -> list[list[str]]:
    """The rows of the table of releases that epsilon covers."""
    rows = (metrics.get("privacy") or {}).get("releases") or []
    return [
        [str(row.get("what") or DASH), str(row.get("part") or DASH), show(row.get("count"), 0),
         show(row.get("sigma"), 2), show(row.get("epsilon"), 3)]
        for row in rows
    ]  # fmt: skip


def _spread(row: Mapping[str, Any], measure: str, seeds: float) -> str:
    """A mean and, over several seeds, its standard deviation."""
    sd = finite(row.get(f"sd_{measure}")) if seeds > 1 else None
    mean = show(row.get(f"mean_{measure}"))
    return mean if sd is None or mean == DASH else f"{mean} ± {show(sd)}"


_WITH_SPREAD = ("mean_auc", "mean_accuracy", "mean_c_index")


def arm_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """List the arms with their figures as text, `values.arm_columns` of both forms.

    >>> arm_rows({"arms": {"local": {"mean_auc": 0.85}}})[0]["shared"]
    ['0.850', '–', '–', '–']
    """
    rows = []
    seeds, keys = finite(metrics.get("seeds")) or 1, [key for key, _ in arm_columns(metrics)]
    for name, arm in (metrics.get("arms") or {}).items():
        epsilon = finite(arm.get("epsilon"))
        kept = "not private" if not arm.get("private") else DASH
        forms = [
            [
                _spread(form, key.removeprefix("mean_"), seeds)
                if key in _WITH_SPREAD
                else show(form.get(key))
                for key in keys
            ]
            for form in (arm, arm.get("adapted") or {})
        ]
        rows.append(
            {
                "name": str(name),
                "note": str(arm.get("note") or ""),
                "main": name == metrics.get("main_arm"),
                "epsilon": kept if epsilon is None or not arm.get("private") else f"{epsilon:.3g}",
                "shared": forms[0],
                "adapted": forms[1],
            }
        )
    return rows


def retrieval_rows(metrics: Metrics) -> list[list[str]]:
    """How well each arm's body finds images of the query's class; the inputs without one first.

    >>> retrieval_rows({})
    []
    """
    found = metrics.get("retrieval")
    if not found:
        return []
    named = [("no body: the inputs themselves", found["inputs"]), *found["arms"].items()]
    return [
        [name, str(row["distance"]), *(show(row["precision"][str(k)]) for k in found["ks"]),
         *(show(row["recall"][str(k)]) for k in found["ks"]), show(row["map"]),
         show(row["chance"])]
        for name, row in named
    ]  # fmt: skip


def published_groups(metrics: Metrics) -> list[tuple[str, list[list[str]]]]:
    """This run's arms, then what others printed for the same hospitals; none where there is none.

    >>> published_groups({"arms": {"local": {"mean_auc": 0.85}}})
    []
    """
    published = metrics.get("published")
    if not published:
        return []
    keys = [key for key, _ in published_columns(metrics)]
    own = [
        [arm["name"] + suffix, arm["epsilon"], *arm[form][: len(keys)]]
        for arm in arm_rows(metrics)
        for form, suffix in (("shared", ""), ("adapted", ", adapted"))
    ]
    others = [
        [row["method"], row["epsilon"] or DASH, *(show(row.get(key)) for key in keys)]
        for row in published["rows"]
    ]
    return [("This run", own), (published["source"], others)]


def site_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """The hospitals in the study's order: size, status, exact figures of two arms."""
    rows, keys = [], [key for key, _ in site_columns(metrics)]
    for site in metrics.get("sites") or []:
        arms = site.get("arms") or {}
        main, local = (arms.get(name) or {} for name in (metrics.get("main_arm"), "local"))
        forms = (main, main.get("adapted") or {}, local)
        cells = [show(site.get(key), 0) for key in ("train_patients", "holdout_patients")]
        cells += [show(form.get(key)) for form in forms for key in keys]
        rows.append(
            {
                "name": str(site.get("name") or DASH),
                "declared": show(site.get("declared"), 0),
                "status": str(site.get("status") or DASH),
                "out": not took_part(site),
                "cells": cells,
            }
        )
    return rows


def _interval(private: Mapping[str, Any], key: str) -> str:
    """A released figure with its 95% interval."""
    value, low, high = (show(private.get(key + end), 2) for end in ("", "_low", "_high"))
    return value if low == high == DASH else f"{value} [{low}, {high}]"


def released_rows(metrics: Metrics) -> list[list[str]]:
    """What each hospital released of its holdout, largest hospital first."""
    keys = ["auc", "accuracy", "sensitivity", "specificity", "brier"]
    keys += ["calibration_slope", "calibration_intercept"]
    sites: list[Site] = [s for s in by_size(metrics) if s.get("private") and took_part(s)]
    return [[str(s["name"]), *(_interval(s["private"], key) for key in keys)] for s in sites]


def provenance_rows(metrics: Metrics) -> list[tuple[str, str]]:
    """Where the figures come from, for whoever repeats the study."""
    versions = ", ".join(f"{k} {v}" for k, v in (metrics.get("versions") or {}).items())
    seeds, seed = int(finite(metrics.get("seeds")) or 1), finite(metrics.get("seed"))
    first = show(seed, 0)
    runs = first if seeds == 1 or seed is None else f"{first} to {show(seed + seeds - 1, 0)}"
    return [
        ("Study digest", str(metrics.get("study_digest") or DASH)),
        ("Rounds", show(metrics.get("rounds"), 0)),
        ("Seeds", f"{runs} ({seeds} {'run' if seeds == 1 else 'runs'})"),
        ("Split", str(metrics.get("split") or DASH)),
        ("Engine", str(metrics.get("engine") or DASH)),
        ("Time", f"{show(metrics.get('seconds'), 1)} s"),
        ("Versions", versions or DASH),
    ]
