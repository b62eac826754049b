"""Pictures of a run round by round: the learning curves and the epsilon spent.

Each is a pure function from the metrics of a run to one `<svg>` element with a title and a
description for screen readers, or an empty string where there is nothing to draw.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from common.report.drawing import BLUE, MAX_PANELS, RED, WIDTH, Drawing, blank, render, short_name
from common.report.values import Metrics, finite, show

MAX_LINES = 8  # hospitals told apart by colour and mark; beyond it, a band and a median
# Okabe and Ito's order, darkened until each stands out 3:1 from white.
COLOURS = (BLUE, RED, "#00795c", "#9c3f7c", "#8a6500", "#3c4650", "#2f86c4", "#7a3b12")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "h")


def _curves(metrics: Metrics) -> dict[str, tuple[list[float], list[float]]]:
    """The main arm's curves: hospital to rounds and AUC, undefined points dropped."""
    arms = metrics.get("curves") or {}
    found = {}
    for name, points in (arms.get(metrics.get("main_arm")) or {}).items():
        pairs = ((finite(point[0]), finite(point[1])) for point in points)
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if known:
            found[str(name)] = ([x for x, _ in known], [y for _, y in known])
    return found


def learning_curves(metrics: Metrics) -> str:
    """Draw the exact AUC of the shared model at each hospital, round by round.

    Up to eight hospitals have a line and a mark each; more are drawn as thin lines under their
    median and the band of their middle half.

    Args:
        metrics: figures of a run; uses `curves`, `main_arm`.

    Returns:
        An SVG element, or an empty string without curves.

    >>> learning_curves({"curves": {}})
    ''
    """
    return render(_learning_curves, metrics, name="learning-curves")


def _learning_curves(metrics: Metrics) -> Drawing | None:
    """The picture of `learning_curves`."""
    curves = _curves(metrics)
    if not curves:
        return None
    figure = blank(WIDTH, 3.0)
    axes = figure.subplots()
    (_each_curve if len(curves) <= MAX_LINES else _band_of_curves)(axes, curves)
    axes.set(xlabel="round", ylabel="AUC on the hospital\u2019s own holdout")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    ends = [(name, ys[0], ys[-1]) for name, (_, ys) in curves.items()]
    said = "; ".join(
        f"{short_name(n)} from {show(a)} to {show(b)}" for n, a, b in ends[:MAX_PANELS]
    )
    if len(ends) > MAX_PANELS:
        said += f"; and {len(ends) - MAX_PANELS} more hospitals"
    return Drawing(figure, "Learning curves by hospital", f"AUC of the shared model: {said}.")


def _each_curve(axes: Axes, curves: Mapping[str, tuple[list[float], list[float]]]) -> None:
    """One line a hospital, labelled at its end."""
    for (xs, ys), colour, mark in zip(curves.values(), COLOURS, MARKS, strict=False):
        every = max(1, len(xs) // 10)
        axes.plot(xs, ys, color=colour, marker=mark, markevery=every, markeredgecolor="white")
    low, high = axes.get_ylim()
    ends = _apart([ys[-1] for _, ys in curves.values()], (high - low) * 0.065)
    last = max(xs[-1] for xs, _ in curves.values())
    for name, end, colour, mark in zip(curves, ends, COLOURS, MARKS, strict=False):
        axes.plot(
            [1.025],
            [end],
            color=colour,
            marker=mark,
            markeredgecolor="white",
            transform=axes.get_yaxis_transform(),
            clip_on=False,
        )
        axes.annotate(
            short_name(name),
            (last, end),
            (1.04, end),
            color=colour,
            va="center",
            xycoords="data",
            textcoords=axes.get_yaxis_transform(),
            annotation_clip=False,
        )
    axes.set_ylim(min(low, *ends), max(high, *ends))


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Move label positions apart, in order, until neighbours are at least `gap` away."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed = list(values)
    for below, above in itertools.pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    shift = sum(p - v for p, v in zip(placed, values, strict=True)) / max(len(values), 1)
    return [p - shift for p in placed]


def _band_of_curves(axes: Axes, curves: Mapping[str, tuple[list[float], list[float]]]) -> None:
    """Many hospitals: thin lines, their median and the middle half."""
    at: dict[float, list[float]] = {}
    for xs, ys in curves.values():
        axes.plot(xs, ys, color="#b9c2cb", linewidth=0.6, marker="." if len(xs) == 1 else "")
        for x, y in zip(xs, ys, strict=True):
            at.setdefault(x, []).append(y)
    rounds = sorted(at)
    cuts = [statistics.quantiles(at[x], n=4) if len(at[x]) > 1 else at[x] * 3 for x in rounds]
    low, middle, high = (list(row) for row in zip(*cuts, strict=True))
    axes.fill_between(
        rounds, low, high, color=BLUE, alpha=0.3, linewidth=0, label="middle half of the hospitals"
    )
    axes.plot(
        rounds,
        middle,
        color=BLUE,
        linewidth=2,
        marker="o",
        markeredgecolor="white",
        markevery=max(1, len(rounds) // 10),
        label="median hospital",
    )
    axes.plot([], [], color="#b9c2cb", linewidth=0.8, label=f"each of {len(curves)} hospitals")
    axes.legend(loc="lower right")


def epsilon_by_round(metrics: Metrics) -> str:
    """Draw what a training patient has spent after each round.

    Args:
        metrics: figures of a run; uses `privacy`.

    Returns:
        An SVG element, or an empty string for a run without a guarantee.

    >>> epsilon_by_round({"privacy": {"private": False}})
    ''
    """
    return render(_epsilon_by_round, metrics, name="epsilon-by-round")


def _epsilon_by_round(metrics: Metrics) -> Drawing | None:
    """The picture of `epsilon_by_round`."""
    privacy = metrics.get("privacy") or {}
    spent = [
        value for value in map(finite, privacy.get("epsilon_by_round") or []) if value is not None
    ]
    if not privacy.get("private") or not spent:
        return None
    figure = blank(WIDTH, 2.5)
    axes = figure.subplots()
    rounds = list(range(len(spent) + 1))
    axes.fill_between(rounds, [0.0, *spent], color=BLUE, alpha=0.1, linewidth=0, step="post")
    axes.step(rounds, [0.0, *spent], color=BLUE, where="post")
    axes.plot(
        rounds[1:],
        spent,
        "o",
        color=BLUE,
        markeredgecolor="white",
        clip_on=False,
        markevery=max(1, len(spent) // 24),
    )
    total = finite(privacy.get("epsilon"))
    if total is not None:
        axes.axhline(total, color=RED, linestyle=(0, (5, 3)), linewidth=1.1)
        axes.annotate(
            f"stated: {total:.3g}", (0, total), (4, 3), textcoords="offset points", color=RED
        )
    axes.set(xlabel="rounds done", ylabel="epsilon spent", xlim=(0, len(spent) + 0.02))
    axes.set_ylim(0, max(*spent, total or 0.0) * 1.18)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    said = f"Epsilon of a training patient is {show(spent[0])} after round 1"
    said += f" and {show(spent[-1])} after round {len(spent)}; stated for the run: {show(total)}."
    return Drawing(figure, "Epsilon by round", said)
