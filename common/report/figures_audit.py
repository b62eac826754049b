"""The pictures of an audit: noise, samples, canaries, one patient's reach, bounds, ledgers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import binom, norm

from common.report.drawing import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    RED,
    WIDTH,
    Drawing,
    blank,
    render,
    short_name,
    small_multiples,
)
from common.report.values import Metrics, finite, show

_EVERY = 5  # quantiles to a bar: two hundred are too many
_PANELS = 4
_EDGE = (0, (3, 3))


def noise(values: Metrics) -> str:
    """Draw what was added to the clipped sums against the normal; uses `evidence`.

    >>> noise({})
    ''
    """
    return render(_noise, values, name="noise")


def samples(values: Metrics) -> str:
    """Draw the sizes of samples against the binomial law; uses `evidence` and `mechanism`."""
    return render(_samples, values, name="samples")


def canaries(values: Metrics) -> str:
    """Draw the scores of canaries that were there and of those that were not."""
    return render(_canaries, values, name="canaries")


def reach(values: Metrics) -> str:
    """Draw how far one patient of each kind moved a clipped sum."""
    return render(_reach, values, name="reach")


def bounds(values: Metrics) -> str:
    """Draw lower bounds and what was measured against the claim and the ceiling."""
    return render(_bounds, values, name="bounds")


def accounts(values: Metrics) -> str:
    """Draw each study's epsilon: claimed, said, recomputed; uses `studies`."""
    return render(_accounts, values, name="accounts")


def _evidence(values: Metrics, letter: str) -> dict[str, Any]:
    found = values.get("evidence") or {}
    return {k[2:]: v for k, v in found.items() if k.startswith(f"{letter} ")}


def _panels(
    found: Mapping[str, Any], draw: Callable[[Axes, Any], None], *, xlabel: str, ylabel: str
) -> Any:
    shown = dict(list(found.items())[:_PANELS])
    figure, every = small_multiples(len(shown), 1.75, xlabel=xlabel, ylabel=ylabel)
    for axes, (name, one) in zip(every, shown.items(), strict=True):
        axes.set_title(short_name(name, 30))
        draw(axes, one)
    return figure


def _noise(values: Metrics) -> Drawing | None:
    found = {k: v for k, v in _evidence(values, "B").items() if v.get("values")}
    if not found:
        return None

    def draw(axes: Axes, one: Mapping[str, Any]) -> None:
        edges = np.asarray(one["values"])[::_EVERY]
        share = np.diff(np.asarray(one["at"])[::_EVERY])
        width = np.maximum(np.diff(edges), 1e-9)
        height = np.where(np.diff(edges) > 1e-6, share / width, 0.0)
        axes.stairs(height, edges, fill=True, color=FAINT)
        axes.stairs(height, edges, color=MUTED, linewidth=0.6)
        x = np.linspace(-3.2, 3.2, 200)
        axes.plot(x, norm.pdf(x), color=BLUE)
        axes.set(xlim=(-3.2, 3.2), ylim=(0, 0.6))

    figure = _panels(found, draw, xlabel="noise, in units of the scale claimed", ylabel="density")
    said = "; ".join(f"{k}: {v['count']} values" for k, v in found.items())
    return Drawing(figure, "Noise against the normal law", f"{said}.")


def _samples(values: Metrics) -> Drawing | None:
    found = {k: v for k, v in _evidence(values, "S").items() if v.get("sizes")}
    rate = finite((values.get("mechanism") or {}).get("sampling_rate"))
    if not found or rate is None:
        return None

    def draw(axes: Axes, one: Mapping[str, Any]) -> None:
        sizes, n = np.asarray(one["sizes"]), int(one["patients"])
        middle, spread = n * rate, max(1.0, (n * rate * (1 - rate)) ** 0.5)
        low = int(max(0, min(sizes.min(), middle - 4 * spread)))
        high = int(max(sizes.max(), middle + 4 * spread)) + 1
        step = max(1, (high - low) // 24)
        edges = np.arange(low, high + step, step) - 0.5
        counts, _ = np.histogram(sizes, edges)
        axes.stairs(counts / len(sizes) / step, edges, fill=True, color=FAINT)
        at = np.arange(low, high)
        axes.plot(at, binom.pmf(at, n, rate), color=BLUE)
        axes.set_ylim(bottom=0)

    figure = _panels(found, draw, xlabel="patients in a sample", ylabel="share of samples")
    said = "; ".join(f"{k}: {len(v['sizes'])} samples" for k, v in found.items())
    return Drawing(figure, "Sizes of samples against the binomial law", f"{said}.")


def _canaries(values: Metrics) -> Drawing | None:
    found = (values.get("evidence") or {}).get("C") or {}
    there, absent = (np.asarray(found.get(k) or []) for k in ("there", "not there"))
    if not there.size or not absent.size:
        return None
    figure = blank(WIDTH, 2.4)
    axes = figure.subplots()
    every = np.concatenate([there, absent])
    low, high = np.quantile(every, [0.002, 0.998])
    edges = np.linspace(low, max(high, low + 1e-9), 31)
    for scores, colour, label in ((absent, MUTED, "not there"), (there, RED, "there")):
        height, _ = np.histogram(scores, edges, density=True)
        axes.stairs(height, edges, color=colour, label=label)
    axes.set(xlabel="score: log likelihood ratio", ylabel="share")
    axes.legend(loc="upper right")
    said = f"{there.size} canaries were there, {absent.size} were not; "
    said += "the less the curves overlap, the more a coordinator learns."
    return Drawing(figure, "Scores of the canaries", said)


def _reach(values: Metrics) -> Drawing | None:
    rows = [row for found in _evidence(values, "A").values() for row in found]
    if not rows:
        return None
    kinds = list(dict.fromkeys(row["patient"] for row in rows))
    figure = blank(WIDTH, 0.7 + 0.24 * len(kinds))
    axes = figure.subplots()
    most = 1.2
    for row in rows:
        change = finite(row["change"])
        is_far = change is None or change > 3
        most = most if change is None or is_far else max(most, 1.1 * change)
        place = 3.0 if change is None or is_far else change
        colour = RED if change is None or change > 1.001 else BLUE
        mark = ">" if is_far else "o"
        axes.plot([place], [kinds.index(row["patient"])], mark, color=colour, alpha=0.5)
    axes.axvline(1, color=INK, linewidth=0.9)
    axes.text(1, -0.75, "C", ha="center", color=INK, fontsize=8)
    far = any(finite(r["change"]) is None or r["change"] > 3 for r in rows)
    axes.set(xlim=(-0.03, 3.1 if far else most), ylim=(len(kinds) - 0.5, -0.9))
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_xlabel("change of the clipped sum, in units of C")
    worst = max((finite(r["change"]) or 0.0 for r in rows), default=0.0)
    return Drawing(figure, "How far one patient reaches", f"At most {show(worst)} C was seen.")


def _bounds(values: Metrics) -> Drawing | None:
    claim, ceiling = (finite(values.get(k)) for k in ("claimed_epsilon", "ceiling_epsilon"))
    lower = {k: finite(v) for k, v in (values.get("lower_bound_epsilon") or {}).items()}
    measured = values.get("parametric_epsilon") or {}
    low, high = finite(measured.get("low")), finite(measured.get("high"))
    if claim is None or (not lower and low is None) or values.get("kind") == "ledger":
        return None
    names = [*lower, *(["as measured (95%)"] if low is not None else [])]
    figure = blank(WIDTH, 0.9 + 0.26 * len(names))
    axes = figure.subplots()
    for y, bound in enumerate(lower.values()):
        if bound == 0:
            axes.text(0, y, " shows nothing", va="center", color=MUTED, fontsize=7.5)
            continue
        at = claim * 1.5 if bound is None else bound
        axes.plot([0, at], [y, y], color=RED if at > claim else BLUE, linewidth=1)
        axes.plot([at], [y], ">", color=RED if at > claim else BLUE)
    if low is not None:
        y, end = len(names) - 1, claim * 1.5 if high is None else high
        axes.plot([low, end], [y, y], color=RED if low > claim else INK, linewidth=3)
    axes.axvline(claim, color=INK, linewidth=1)
    axes.text(claim, -0.8, "claimed ", ha="right", fontsize=8)
    if ceiling is not None and ceiling > 0:
        axes.axvline(ceiling, color=MUTED, linestyle=_EDGE, linewidth=1)
        axes.text(ceiling, -0.8, " largest to be seen", ha="left", color=MUTED, fontsize=8)
    right = 1.15 * max(claim, ceiling or 0.0, high or 0.0, *(v or 0.0 for v in lower.values()))
    axes.set(xlim=(0, right), ylim=(len(names) - 0.5, -1.1), xlabel="epsilon")
    axes.set_yticks(range(len(names)), [name.removeprefix("C canaries: ") for name in names])
    said = "; ".join(f"{k} at least {show(v, 2)}" for k, v in lower.items()) or "no bound"
    return Drawing(figure, "Bounds against the claim", f"Claimed {show(claim, 2)}; {said}.")


def _accounts(values: Metrics) -> Drawing | None:
    studies = values.get("studies") or []
    if not any(finite(s.get("pld")) is not None for s in studies):
        return None
    figure = blank(WIDTH, 0.9 + 0.34 * len(studies))
    axes = figure.subplots()
    marks = (("claimed", "|", INK, 16), ("said", "D", MUTED, 8), ("prv", "o", FAINT, 6))
    for key, mark, colour, size in (*marks, ("pld", "o", BLUE, 4)):
        points = [(finite(s.get(key)), y) for y, s in enumerate(studies)]
        kept = [(x, y) for x, y in points if x is not None]
        label = {"pld": "recomputed, PLD", "prv": "recomputed, PRV"}.get(key, key)
        if kept:
            x, y = zip(*kept, strict=True)
            axes.plot(x, y, mark, color=colour, markersize=size, label=label)
    most = max(x for x in (finite(s.get("pld")) for s in studies) if x is not None)
    claims = [finite(s.get("claimed")) or 0.0 for s in studies]
    axes.set(xlim=(0, 1.15 * max(most, *claims)), ylim=(len(studies) - 0.4, -0.6), xlabel="epsilon")
    axes.set_yticks(range(len(studies)), [short_name(str(s["name"]), 34) for s in studies])
    figure.legend(loc="outside lower center", ncols=4)
    said = "; ".join(f"{s['name']} {show(s.get('pld'), 2)}" for s in studies)
    return Drawing(figure, "Epsilon by study", f"Recomputed: {said}.")
