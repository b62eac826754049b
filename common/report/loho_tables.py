"""The rows of the tables of hospitals left out, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report.loho_values import (
    Form,
    averaged,
    forms_of,
    labelled,
    left_out_sites,
    main_figures,
    mean_forms,
    shots_of,
    show_auc,
)
from common.report.values import DASH, Metrics, finite, show

CENTRES_ACROSS = 8  # columns of the table of missing values that fit the page

_MEASURES = ("accuracy", "brier", "log_loss", "calibration_slope", "calibration_intercept",
             "observed_expected")  # fmt: skip


def _cells(figures: Mapping[str, Any]) -> list[str]:
    """The figures of a model but its AUC; calibration to two decimals."""
    return [show(figures.get(key), 3 if i < 3 else 2) for i, key in enumerate(_MEASURES)]


def _row(form: Form, cells: list[str]) -> dict[str, Any]:
    return {"name": form.label, "main": form.main, "cells": cells}


def mean_groups(metrics: Metrics) -> list[dict[str, Any]]:
    """List numbers of labelled patients with a row for each form of each arm.

    >>> mean_groups({"shots": [0], "mean": {"0": {"pooled": {"auc": 0.8}}}})[0]["rows"][0]["cells"]
    ['0.800', '–', '–', '–', '–', '–', '–']
    """
    groups = []
    for shots in shots_of(metrics):
        rows = [_row(f, [show_auc(f.figures.get("auc")), *_cells(f.figures)])
                for f in mean_forms(metrics, shots)]  # fmt: skip
        label = f"With {labelled(shots)}, {averaged(metrics, shots)}"
        groups.append({"label": label, "rows": rows})
    return [group for group in groups if group["rows"]]


def pooled_groups(metrics: Metrics) -> list[dict[str, Any]]:
    """The same for the AUCs pooled over hospitals: mean, intervals, tau squared, hospitals."""
    groups = []
    for shots in shots_of(metrics):
        arms = (metrics.get("pooled") or {}).get(str(shots))
        rows = []
        for form in forms_of(metrics, arms, shots):
            p = form.figures
            cells = [show_auc(p.get("auc")), _ends(p.get("ci_low"), p.get("ci_high"), 3),
                     _ends(p.get("prediction_low"), p.get("prediction_high"), 3),
                     show(p.get("tau2")), show(p.get("k"), 0)]  # fmt: skip
            rows.append(_row(form, cells))
        groups.append({"label": f"With {labelled(shots)}", "rows": rows})
    return [group for group in groups if group["rows"]]


def _ends(low: object, high: object, digits: int = 2) -> str:
    """An interval as text, an en dash where neither end is known."""
    ends = show(low, digits), show(high, digits)
    return DASH if ends == (DASH, DASH) else f"{ends[0]} to {ends[1]}"


def auc_cell(figures: Mapping[str, Any]) -> tuple[str, str]:
    """Return an AUC and, in small, its interval and in how many draws it was defined.

    >>> auc_cell({"auc": 0.8, "auc_low": 0.7, "auc_high": 0.9, "draws": 30, "draws_with_auc": 29})
    ('0.800', '0.70 to 0.90; defined in 29 of 30 draws')
    """
    ends = _ends(figures.get("auc_low"), figures.get("auc_high"))
    small = [] if ends == DASH else [ends]
    draws, known = finite(figures.get("draws")), finite(figures.get("draws_with_auc"))
    if draws is not None and known is not None and 0 < known < draws:
        small.append(f"defined in {known:.0f} of {draws:.0f} draws")
    return show_auc(figures.get("auc")), "; ".join(small)


def site_groups(metrics: Metrics) -> list[dict[str, Any]]:
    """List hospitals with the main arm's figures at each number of labelled patients."""
    groups = []
    for site in left_out_sites(metrics):
        rows = []
        for shots in shots_of(metrics):
            figures = main_figures(metrics, site, shots)
            row: dict[str, Any] = {"shots": str(shots), "auc": ("", ""), "cells": []}
            if figures is not None:
                row |= {"auc": auc_cell(figures), "cells": _cells(figures)}
            rows.append(row)
        groups.append({"name": site, "rows": rows})
    return groups


def centre_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Describe every centre as TRIPOD-Cluster asks: size, outcomes, performance (Debray 2023)."""
    first = min(shots_of(metrics), default=0)
    rows = []
    for centre in metrics.get("centres") or []:
        name = str(centre.get("name") or DASH)
        out = name not in left_out_sites(metrics)
        figures = main_figures(metrics, name, first) or {}
        rows.append(
            {
                "name": name,
                "out": out,
                "status": str(centre.get("status") or DASH),
                "declared": show(centre.get("declared"), 0),
                "patients": show(centre.get("patients"), 0),
                "records": show(centre.get("records"), 0),
                "outcomes": _share(centre.get("outcomes"), centre.get("patients")),
                "auc": auc_cell(figures),
            }
        )
    return rows


def eligible_note(metrics: Metrics) -> str:
    """Say of which records missing values are counted, where incomplete ones were left out."""
    if any(c.get("eligible") != c.get("records") for c in metrics.get("centres") or []
           if finite(c.get("eligible"))):  # fmt: skip
        return "read, before incomplete records are left out"
    return "read"


def missing_tables(metrics: Metrics) -> list[dict[str, Any]]:
    """Tables of missing values: a row a feature, a column a centre, so many as fit the page."""
    judged = left_out_sites(metrics)
    centres = [c for c in metrics.get("centres") or [] if c.get("name") in judged]
    features = dict.fromkeys(name for c in centres for name in c.get("missing") or {})
    tables = []
    for start in range(0, len(centres), CENTRES_ACROSS):
        batch = centres[start : start + CENTRES_ACROSS]
        rows = [
            (str(f), [_share(_count((c.get("missing") or {}).get(f)), c.get("eligible"))
                      for c in batch])
            for f in features
        ]  # fmt: skip
        tables.append({"centres": [str(c.get("name")) for c in batch], "rows": rows})
    return tables if features else []


def _count(value: object) -> float:
    return finite(value) or 0.0


def _share(part: object, whole: object) -> str:
    """A count with its percentage of a whole; patients can have a part of their mass in a class.

    >>> _share(139.0, 303), _share(2.5, 10), _share(1, 300), _share(0, 9), _share(None, 9)
    ('139 (46%)', '2.5 (25%)', '1 (<1%)', '0', '–')
    """
    number, total = finite(part), finite(whole)
    if number is None:
        return DASH
    text = show(number, 0 if number == round(number) else 1)
    if not total or not number:
        return text
    percent = 100 * number / total
    if percent < 1 or 99 < percent < 100:  # neither nobody nor everybody
        return f"{text} ({'<1' if percent < 1 else '>99'}%)"
    return f"{text} ({percent:.0f}%)"
