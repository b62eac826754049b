"""The pictures that ask whether to trust a meta-analysis: funnel, Baujat, influence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import norm

from common.report.drawing import BLUE, INK, MUTED, RED, WIDTH, Drawing, blank, render, short_name
from common.report.figures_meta import reader_axis
from common.report.values import Metrics, show

# Two-sided p-values at which the shade of a contour-enhanced funnel changes, outside in.
_SHADES = ((0.01, "#eef2f5"), (0.05, "#dbe3ea"), (0.1, "#c3d0db"))
_PANELS = (
    ("rstudent", "Studentised residual"),
    ("dffits", "DFFITS"),
    ("cook", "Cook's distance"),
    ("covratio", "Covariance ratio"),
    ("tau2", "Tau² without it"),
    ("hat", "Hat value"),
)


def funnel(values: Metrics) -> str:
    """Draw effects against standard errors over contours of significance; filled ones are open.

    Contours are about no effect (Peters et al., J Clin Epidemiol 2008); there are none for a
    measure, like an AUC, that has no such value. Dashed lines are where 95% of studies would lie
    about the pooled mean if they differed by chance alone. Empty below three studies.
    """
    return render(_funnel, values, name="funnel")


def baujat(values: Metrics) -> str:
    """Draw each study's part in Q against its pull on the mean; empty below three studies."""
    return render(_baujat, values, name="baujat")


def influence(values: Metrics) -> str:
    """Draw the diagnostics of every study, influential ones marked; empty below three studies."""
    return render(_influence, values, name="influence")


def _funnel(values: Metrics) -> Drawing | None:
    studies: Sequence[Mapping[str, Any]] = values.get("studies") or []
    if len(studies) < 3:
        return None
    filled = (values.get("trim_and_fill") or {}).get("studies") or []
    x = np.array([row["estimate"] for row in (*studies, *filled)])
    se = np.array([row["se"] for row in (*studies, *filled)])
    mean, deepest, z = float(values["estimate"]), 1.08 * float(se.max()), float(norm.isf(0.025))
    figure = blank(WIDTH, 4.2)
    axes = figure.subplots()
    reach = max(float(np.abs(x - mean).max()) * 1.1, z * deepest * 0.8)
    axes.set(xlim=(mean - reach, mean + reach), ylim=(deepest, 0), ylabel="Standard error")
    if values.get("null") is not None:
        _contours(axes, float(values["null"]), deepest)
    axes.plot([mean, mean], [0, deepest], color=RED, linewidth=1)
    for side in (-1, 1):
        axes.plot([mean, mean + side * z * deepest], [0, deepest], color=RED,
                  linewidth=0.8, linestyle=(0, (3, 3)))  # fmt: skip
    n = len(studies)
    axes.plot(x[:n], se[:n], "o", color=BLUE, markersize=5, label="study")
    if filled:
        axes.plot(x[n:], se[n:], "o", markerfacecolor="white", markeredgecolor=INK, markersize=5,
                  label="filled in by trim and fill")  # fmt: skip
    axes.grid(False)
    reader_axis(axes, values)
    figure.legend(loc="outside lower center", ncols=6)
    said = (
        f"{n} studies and {len(filled)} filled in on the {_side(values)} side"
        if filled
        else f"{n} studies"
    )
    return Drawing(
        figure, "Funnel plot", f"{said}; standard errors {show(se.min())} to {show(se.max())}."
    )


def _side(values: Metrics) -> str:
    return str((values.get("trim_and_fill") or {}).get("side", ""))


def _contours(axes: Axes, null: float, deepest: float) -> None:
    depth = np.array([0.0, deepest])
    left, right = axes.get_xlim()
    axes.axvspan(left, right, color=_SHADES[0][1], zorder=0, label="p below .01")
    for (p, _), (_, shade), name in zip(
        _SHADES,
        (*_SHADES[1:], (0.0, "white")),
        (".01 to .05", ".05 to .1", "above .1"),
        strict=True,
    ):
        half = norm.isf(p / 2) * depth
        axes.fill_betweenx(depth, null - half, null + half, color=shade, zorder=0.1 + p,
                           linewidth=0, label=f"p {name}")  # fmt: skip
    axes.axvline(null, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))


def _diagnosed(values: Metrics) -> list[Mapping[str, Any]]:
    return [row for row in values.get("studies") or [] if row.get("influence")]


def _baujat(values: Metrics) -> Drawing | None:
    studies = _diagnosed(values)
    if not studies:
        return None
    x, y = (
        np.array([row["influence"][key] for row in studies]) for key in ("baujat_x", "baujat_y")
    )
    figure = blank(WIDTH, 3.8)
    axes = figure.subplots()
    axes.plot(x, y, "o", color=BLUE, markersize=5)
    axes.set(xlabel="Part in the heterogeneity", ylabel="Pull on the pooled mean")
    axes.margins(0.08)
    named = np.argsort(-(x / max(x.max(), 1e-12) + y / max(y.max(), 1e-12)))[:3]
    for i, row in enumerate(studies):
        far = x[i] > 0.7 * x.max()
        text = short_name(str(row["name"])) if i in named else str(i + 1)
        axes.annotate(text, (x[i], y[i]), xytext=(-6 if far else 6, 3), textcoords="offset points",
                      ha="right" if far else "left", fontsize=7.5, color=INK)  # fmt: skip
    said = ", ".join(str(studies[i]["name"]) for i in named[:3])
    return Drawing(figure, "Baujat plot", f"Furthest from the origin: {said}.")


def _influence(values: Metrics) -> Drawing | None:
    studies = _diagnosed(values)
    if not studies:
        return None
    figure = blank(WIDTH, 5.2)
    places = np.arange(1, len(studies) + 1)
    marked = np.array([bool(row["influence"]["influential"]) for row in studies])
    for axes, (key, title) in zip(figure.subplots(3, 2).flat, _PANELS, strict=True):
        found = np.array([row["influence"][key] for row in studies], dtype=np.float64)
        base = {"covratio": 1.0, "tau2": values.get("tau2") or 0.0, "hat": 1 / len(studies)}.get(
            key, 0.0
        )
        axes.axhline(base, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.vlines(places, base, found, color=np.where(marked, RED, BLUE), linewidth=1)
        axes.scatter(places, found, c=np.where(marked, RED, BLUE), s=14, zorder=3)
        axes.set_title(title, weight="normal")
        axes.set_xticks(places if len(places) <= 20 else places[:: len(places) // 12])
    figure.supxlabel("Study, by its row in the table", fontsize=8)
    names = [str(row["name"]) for row, mark in zip(studies, marked, strict=True) if mark]
    return Drawing(figure, "Influence", f"Influential: {', '.join(names) or 'no study'}.")
