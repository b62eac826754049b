"""The pictures of an attack: patients beside what was read of them, correlations, ROC curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from common.report.drawing import BLUE, MUTED, RED, WIDTH, Drawing, blank, render, short_name
from common.report.values import Metrics, finite, show

_COLOURS = (RED, BLUE)  # without privacy, with it


def read_beside_original(values: Metrics) -> str:
    """Draw patients' inputs, a row each arm under them; uses `patients`.

    >>> read_beside_original({})
    ''
    """
    return render(_patients, values, name="patients")


def correlations(values: Metrics) -> str:
    """Draw each patient's correlation by arm; uses `arms` and `guess`."""
    return render(_correlations, values, name="correlations")


def roc_curves(values: Metrics) -> str:
    """Draw the ROC curve of every score, a panel each; uses `arms`."""
    return render(_curves, values, name="roc")


def _patients(values: Metrics) -> Drawing | None:
    patients = values.get("patients") or []
    if not patients:
        return None
    rows = ["patient", *patients[0]["read"]]
    figure = blank(WIDTH, 0.35 + 1.15 * len(rows))
    grid = figure.subplots(len(rows), len(patients), squeeze=False)
    for column, patient in enumerate(patients):
        original = np.asarray(patient["original"], dtype=np.float64)
        shown = [original, *(np.asarray(x, dtype=np.float64) for x in patient["read"].values())]
        for axes, one in zip(grid[:, column], shown, strict=True):
            _one(axes, one, original)
        grid[0, column].set_title(short_name(str(patient["hospital"]), 16), weight="normal")
    for axes, row in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(row.replace(" privacy", "\nprivacy"), fontsize=7.5)
    said = f"{len(patients)} patients' inputs, above what was read of each: {', '.join(rows[1:])}."
    return Drawing(figure, "Patients and what was read of them", said)


def _one(axes: Axes, values: NDArray[np.float64], original: NDArray[np.float64]) -> None:
    """One input: a picture, or a table's values as bars over the original's range."""
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    if values.ndim == 3:
        picture = values.mean(axis=0)  # of the colours
        low, high = np.quantile(picture, [0.01, 0.99])
        axes.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-9))
        axes.spines[["left", "bottom"]].set_visible(False)
        return
    flat, scale = values.reshape(-1), max(float(np.abs(original).max()), 1e-9)
    size = max(float(np.abs(flat).max()), 1e-9)
    axes.bar(range(len(flat)), flat / size * scale, color=MUTED, width=0.8)
    axes.set_ylim(-1.1 * scale, 1.1 * scale)
    axes.axhline(0, color=MUTED, linewidth=0.6)


def _correlations(values: Metrics) -> Drawing | None:
    arms = values.get("arms") or []
    if not arms or "informed" not in arms[0]:
        return None
    figure = blank(WIDTH, 0.8 + 0.45 * len(arms))
    axes = figure.subplots()
    for y, arm in enumerate(arms):
        each = arm["informed"]["each"]
        offsets = 0.12 * np.sin(2.4 * np.arange(len(each)))  # so that equal ones are seen
        colour = _COLOURS[bool(arm["private"])]
        axes.plot(each, y + offsets, "o", color=colour, markersize=4.5, alpha=0.6)
    guess = finite((values.get("guess") or {}).get("mean"))
    if guess is not None:
        axes.axvline(guess, color=MUTED, linestyle=(0, (3, 3)), linewidth=0.9)
        axes.text(guess, -0.62, "mean of the others", ha="center", color=MUTED, fontsize=7.5)
    axes.set(xlim=(-1.03, 1.03), ylim=(len(arms) - 0.5, -0.75), xlabel="correlation")
    axes.set_yticks(range(len(arms)), [arm["name"] for arm in arms])
    said = "; ".join(f"{a['name']} {show(a['informed']['correlation']['mean'])}" for a in arms)
    return Drawing(figure, "Correlation of what was read with the patient", f"Mean: {said}.")


def _curves(values: Metrics) -> Drawing | None:
    arms: list[Any] = values.get("arms") or []
    if not arms or "scores" not in arms[0]:
        return None
    scores = list(arms[0]["scores"])
    figure = blank(WIDTH, 3.6)
    for axes, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for arm in arms:
            points = np.asarray(arm["scores"][score]["roc"])
            colour = _COLOURS[bool(arm["private"])]
            axes.plot(points[:, 0], points[:, 1], color=colour, label=arm["name"])
        axes.set(title=f"By {score}", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set(xlabel="share of non-members accused", ylabel="share of members found")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    said = "; ".join(
        f"{a['name']}, by {s}: AUC {show(a['scores'][s]['auc']['value'])}"
        for a in arms
        for s in scores
    )
    return Drawing(figure, "Members found against non-members accused", f"{said}.")
