"""The report's pictures: each a pure function from metrics to one accessible SVG.

Every function takes the metrics of a run and returns a complete ``<svg>`` element with a title and
a description for screen readers, or an empty string where there is nothing to draw. Text stays
text, so that it can be searched, enlarged and read aloud. Equal metrics give equal bytes.
"""

import functools
import html
import io
import itertools
import math
import re
import statistics
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.ticker import MaxNLocator

Metrics = Mapping[str, Any]
Site = Mapping[str, Any]

DASH = "\N{EN DASH}"  # what a missing figure is shown as
WIDTH = 7.9  # inches: the column of the page
MAX_LINES = 8  # hospitals told apart by colour and mark; beyond it, a band and a median
MAX_PANELS = 12
MAX_ROWS = 24
INK, MUTED, FAINT, BLUE, RED = "#1c2530", "#5b6672", "#d7dde3", "#0b5c99", "#b8460e"
# Okabe and Ito's order, darkened until each stands out 3:1 from white.
COLOURS = (BLUE, RED, "#00795c", "#9c3f7c", "#8a6500", "#3c4650", "#2f86c4", "#7a3b12")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "h")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a hospital may have a dollar sign in its name
    "text.color": INK,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e8ecf0",
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
    "lines.markeredgewidth": 0.8,
    "legend.frameon": False,
}
_LOCK = threading.Lock()  # matplotlib's settings belong to the process, not to a figure


@dataclass(frozen=True)
class Drawing:
    """A drawn figure, its title and what it says in words."""

    figure: Figure
    title: str
    description: str


def _picture(draw: Callable[[Metrics], Drawing | None]) -> Callable[[Metrics], str]:
    """Run `draw` in the common style and turn what it drew into SVG."""

    @functools.wraps(draw)
    def render(metrics: Metrics) -> str:
        name = draw.__name__.replace("_", "-")
        style = {**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": f"grandrounds-{name}"}
        style.pop("backend", None)
        with _LOCK, matplotlib.rc_context(style), warnings.catch_warnings():
            # The reader's browser has the letters that the font used for measuring lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            drawing = draw(metrics)
            return "" if drawing is None else _to_svg(name, drawing)

    return render


def _to_svg(name: str, drawing: Drawing) -> str:
    """Write an inline SVG without metadata, with a title and a description."""
    buffer = io.StringIO()
    absent: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    drawing.figure.savefig(buffer, format="svg", metadata=absent)
    text = re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), count=1, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    # Group names would clash between pictures of one page; marks and clips are salted by name.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r" font-family: [^;\"]*;?", "", text)
    width = float(drawing.figure.get_figwidth()) * 118
    head = (
        f'<svg role="img" aria-labelledby="{name}-title {name}-text" stroke-linejoin="round" '
        "font-family=\"'Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif\" "
        f'style="--natural:{width:.0f}px" '
    )
    label = (
        f'<title id="{name}-title">{html.escape(drawing.title)}</title>'
        f'<desc id="{name}-text">{html.escape(drawing.description)}</desc>'
    )
    text = text.replace("<svg ", head, 1)
    return re.sub(r"(<svg[^>]*>)", lambda match: match.group(1) + label, text, count=1).strip()


def finite(value: object) -> float | None:
    """Return a number as float, and None for what is missing, not a number or infinite.

    >>> finite(1), finite(None), finite(float("nan"))
    (1.0, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def show(value: object, digits: int = 3) -> str:
    """Write a number to `digits` decimals, a missing one as an en dash.

    >>> show(0.8461), show(None)
    ('0.846', '–')
    """
    number = finite(value)
    if number is None:
        return DASH
    # A true minus sign aligns and is not broken at the end of a line; zero has no sign.
    return f"{round(number, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def took_part(site: Site) -> bool:
    """Say whether a hospital is in the run's figures.

    >>> took_part({"status": "left out: too small"})
    False
    """
    return not str(site.get("status") or "").startswith("left out")


def by_size(metrics: Metrics) -> list[Site]:
    """List the hospitals, largest declared size first.

    >>> [s["name"] for s in by_size({"sites": [{"name": "a"}, {"name": "b", "declared": 9}]})]
    ['b', 'a']
    """
    return sorted(metrics.get("sites") or [], key=lambda site: -(finite(site.get("declared")) or 0))


def _name(site: Site | str, width: int = 24) -> str:
    """A hospital's name on one line, shortened, without control characters."""
    text = site if isinstance(site, str) else str(site.get("name") or DASH)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _figure(width: float, height: float) -> Figure:
    """An empty white figure of a size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def _grid(panels: int, height: float, xlabel: str, ylabel: str) -> tuple[Figure, list[Axes]]:
    """Small multiples with shared axes, at most four to a row."""
    columns = 3 if panels in (5, 6, 9) else min(panels, 4)
    rows = math.ceil(panels / columns)
    figure = _figure(min(WIDTH, 1.0 + 2.1 * columns), 0.55 + height * rows)
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for index, spare in enumerate(axes[panels:], start=panels):
        spare.set_visible(False)
        axes[index - columns].tick_params(labelbottom=True)
    figure.supxlabel(xlabel, fontsize=8)
    figure.supylabel(ylabel, fontsize=8)
    return figure, axes[:panels]


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Move label positions apart, in order, until neighbours are at least `gap` away."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed = list(values)
    for below, above in itertools.pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    shift = sum(p - v for p, v in zip(placed, values, strict=True)) / max(len(values), 1)
    return [p - shift for p in placed]


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


@_picture
def learning_curves(metrics: Metrics) -> Drawing | None:
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
    curves = _curves(metrics)
    if not curves:
        return None
    figure = _figure(WIDTH, 3.0)
    axes = figure.subplots()
    (_each_curve if len(curves) <= MAX_LINES else _band_of_curves)(axes, curves)
    axes.set(xlabel="round", ylabel="AUC on the hospital\u2019s own holdout")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    ends = [(name, ys[0], ys[-1]) for name, (_, ys) in curves.items()]
    said = "; ".join(f"{_name(n)} from {show(a)} to {show(b)}" for n, a, b in ends[:MAX_PANELS])
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
            _name(name),
            (last, end),
            (1.04, end),
            color=colour,
            va="center",
            xycoords="data",
            textcoords=axes.get_yaxis_transform(),
            annotation_clip=False,
        )
    axes.set_ylim(min(low, *ends), max(high, *ends))


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


@_picture
def arms(metrics: Metrics) -> Drawing | None:
    """Draw every arm's mean AUC and accuracy, shared and adapted, plus and minus one sd.

    Args:
        metrics: figures of a run; uses `arms`, `main_arm`.

    Returns:
        An SVG element, or an empty string without arms.

    >>> arms({"arms": {}})
    ''
    """
    table = metrics.get("arms") or {}
    if not table:
        return None
    names = list(table)
    figure = _figure(WIDTH, 1.0 + 0.4 * len(names))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure in zip(panels, ("AUC", "accuracy"), strict=True):
        _arm_marks(axes, table, measure)
        axes.set(title=f"Mean {measure} over hospitals", ylim=(len(names) - 0.5, -0.5))
        axes.grid(False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_yticks(range(len(names)), [_name(name) for name in names])
    for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == metrics.get("main_arm") else "normal")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    said = "; ".join(
        f"{_name(n)} AUC {show(table[n].get('mean_auc'))}, adapted "
        f"{show((table[n].get('adapted') or {}).get('mean_auc'))}"
        for n in names
    )
    return Drawing(figure, "Arms compared", f"Mean over hospitals: {said}.")


def _arm_marks(axes: Axes, table: Mapping[str, Mapping[str, Any]], measure: str) -> None:
    """Shared (full circle) and adapted (open diamond) figures of one measure."""
    forms = (
        ("shared model", -0.13, BLUE, "o", BLUE),
        ("after local adaptation", 0.13, RED, "D", "white"),
    )
    ends = []
    for label, offset, colour, mark, face in forms:
        points = []
        for y, (name, row) in enumerate(table.items()):
            figures = row if offset < 0 else row.get("adapted") or {}
            value = finite(figures.get(f"mean_{measure.lower()}"))
            if value is not None:
                spread = finite(figures.get(f"sd_{measure.lower()}")) or 0.0
                points.append((value, y + offset, spread))
                ends += [] if name == "majority" else [value - spread, value + spread]
        values, at, bars = (list(row) for row in zip(*points, strict=True)) if points else ([],) * 3
        drawn = axes.errorbar(values, at, xerr=bars, fmt=mark, color=colour, label=label)
        drawn.lines[0].set(markerfacecolor=face, markersize=5)
    for y in range(len(table) - 1):
        axes.axhline(y + 0.5, color="#eef1f4", linewidth=0.7)
    if ends:
        _frame_arms(axes, (min(ends), max(ends)), table, f"mean_{measure.lower()}")


def _frame_arms(
    axes: Axes, ends: tuple[float, float], table: Mapping[str, Mapping[str, Any]], key: str
) -> None:
    """Fit the axis to the arms that learn; a majority vote far below them is an arrow."""
    pad = 0.06 * (ends[1] - ends[0]) + 0.004
    axes.set_xlim(ends[0] - pad, ends[1] + pad)
    value = finite((table.get("majority") or {}).get(key))
    if value is not None and value < ends[0] - pad:
        y = list(table).index("majority")
        side = axes.get_yaxis_transform()
        axes.text(0.015, y - 0.13, f"\N{LEFTWARDS ARROW} {value:.3f}", transform=side, va="center")


@_picture
def epsilon_by_round(metrics: Metrics) -> Drawing | None:
    """Draw what a training patient has spent after each round.

    Args:
        metrics: figures of a run; uses `privacy`.

    Returns:
        An SVG element, or an empty string for a run without a guarantee.

    >>> epsilon_by_round({"privacy": {"private": False}})
    ''
    """
    privacy = metrics.get("privacy") or {}
    spent = [
        value for value in map(finite, privacy.get("epsilon_by_round") or []) if value is not None
    ]
    if not privacy.get("private") or not spent:
        return None
    figure = _figure(WIDTH, 2.5)
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


def _with_private(metrics: Metrics, key: str) -> list[Site]:
    """The hospitals that released `key`, largest first."""
    return [s for s in by_size(metrics) if took_part(s) and (s.get("private") or {}).get(key)]


def reliability(histogram: Mapping[str, Any]) -> list[tuple[float, float, float, float]]:
    """Turn a noisy histogram of scores by outcome into points of a calibration curve.

    The variance of a bin's event rate is the sampling part, with one patient added to either
    outcome so that a rate of 0 or 1 has an interval, plus the noise part by the delta method,
    sigma^2 (rate^2 + (1 - rate)^2) / n^2. A bin whose noisy count is not above twice the noise's
    standard deviation, sqrt(2) sigma, says nothing and is left out.

    Args:
        histogram: `edges` (bins + 1,), `negative` and `positive` (bins,) in noisy patients,
            `sigma` the noise's standard deviation in patients.

    Returns:
        (middle of the bin, event rate, low, high) for each bin kept, a 95% interval.

    >>> reliability({"edges": [0, 1], "negative": [50], "positive": [50], "sigma": 0})
    ... # doctest: +ELLIPSIS
    [(0.5, 0.5, 0.402..., 0.597...)]
    """
    sigma = finite(histogram.get("sigma")) or 0.0
    edges, points = histogram["edges"], []
    bins = zip(edges, edges[1:], histogram["negative"], histogram["positive"], strict=False)
    for left, right, negative, positive in bins:
        count = (negative or 0.0) + (positive or 0.0)
        if count <= max(2 * math.sqrt(2) * sigma, 0.5):
            continue
        rate = min(max((positive or 0.0) / count, 0.0), 1.0)
        eased = (rate * count + 1) / (count + 2)
        noise = sigma**2 * (rate**2 + (1 - rate) ** 2) / count**2
        half = 1.96 * math.sqrt(eased * (1 - eased) / (count + 2) + noise)
        points.append(((left + right) / 2, rate, max(rate - half, 0.0), min(rate + half, 1.0)))
    return points


@_picture
def calibration(metrics: Metrics) -> Drawing | None:
    """Draw observed against predicted risk from the released histograms, a panel a hospital.

    Args:
        metrics: figures of a run; uses `sites[].private.histogram`.

    Returns:
        An SVG element with the twelve largest hospitals, or an empty string without histograms.

    >>> calibration({"sites": []})
    ''
    """
    sites = _with_private(metrics, "histogram")[:MAX_PANELS]
    if not sites:
        return None
    figure, panels = _grid(len(sites), 1.9, "predicted risk", "observed share with the disease")
    said = []
    for axes, site in zip(panels, sites, strict=True):
        points = reliability(site["private"]["histogram"])
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        if points:
            x, y, low, high = (list(row) for row in zip(*points, strict=True))
            bars = [
                [b - a for a, b in zip(low, y, strict=True)],
                [b - a for a, b in zip(y, high, strict=True)],
            ]
            axes.errorbar(
                x,
                y,
                yerr=bars,
                fmt="o",
                color=BLUE,
                ecolor="#7fa9cb",
                elinewidth=1.2,
                markeredgecolor="white",
                markersize=5,
                clip_on=False,
            )
        else:
            axes.text(0.95, 0.12, "all bins lost\nin the noise", ha="right", color=MUTED)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        slope = show(site["private"].get("calibration_slope"), 2)
        axes.set_title(_name(site, 20), pad=13)
        axes.text(0, 1.035, f"slope {slope}", transform=axes.transAxes, color=MUTED, fontsize=7.5)
        said.append(f"{_name(site)} slope {slope}, {len(points)} bins shown")
    return Drawing(figure, "Calibration by hospital", "; ".join(said) + ".")


def _benefit_rows(site: Site) -> list[Mapping[str, Any]]:
    """A hospital's net benefits that are defined, in the order of the threshold."""
    rows = [r for r in site["private"]["net_benefit"] if finite(r.get("value")) is not None]
    return sorted(rows, key=lambda row: float(row["threshold"]))


@_picture
def decision_curves(metrics: Metrics) -> Drawing | None:
    """Draw net benefit against the threshold of treatment, a panel a hospital.

    Vickers and Elkin, Decision curve analysis, Medical Decision Making 26 (2006).

    Args:
        metrics: figures of a run; uses `sites[].private.net_benefit`.

    Returns:
        An SVG element with the twelve largest hospitals, or an empty string without the figures.

    >>> decision_curves({"sites": []})
    ''
    """
    sites = [s for s in _with_private(metrics, "net_benefit") if _benefit_rows(s)][:MAX_PANELS]
    if not sites:
        return None
    figure, panels = _grid(len(sites), 1.55, "threshold of treatment", "net benefit")
    tops = [0.1]
    for axes, site in zip(panels, sites, strict=True):
        rows = _benefit_rows(site)
        x = [row["threshold"] for row in rows]
        lines = {
            key: [finite(row.get(key)) for row in rows]
            for key in ("value", "low", "high", "treat_all")
        }
        y = {k: [math.nan if v is None else v for v in line] for k, line in lines.items()}
        axes.axhline(0, color=INK, linewidth=0.9, label="treat nobody")
        axes.plot(x, y["treat_all"], color=MUTED, linestyle=(0, (4, 2)), label="treat everybody")
        axes.fill_between(x, y["low"], y["high"], color=BLUE, alpha=0.17, linewidth=0)
        axes.plot(
            x,
            y["value"],
            color=BLUE,
            marker="o" if len(x) == 1 else "",
            linewidth=1.8,
            label="shared model, 95% interval",
        )
        axes.set_title(_name(site, 20))
        tops += [v for k in ("value", "high") for v in lines[k] if v is not None]
    # Treating everybody falls without a floor: the picture stops where it no longer informs.
    panels[0].set_ylim(-0.25 * max(tops), 1.05 * max(tops))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3)
    names = ", ".join(_name(site) for site in sites)
    return Drawing(figure, "Net benefit by hospital", f"Decision curves of {names}.")


@_picture
def forest(metrics: Metrics) -> Drawing | None:
    """Draw each hospital's released AUC, the random-effects mean and the prediction interval.

    Args:
        metrics: figures of a run; uses `sites[].private`, `pooled_private`.

    Returns:
        An SVG element, the 24 largest hospitals at most; empty if no hospital released an AUC.

    >>> forest({"sites": []})
    ''
    """
    if not any(finite(s["private"].get("auc")) is not None for s in _with_private(metrics, "auc")):
        return None
    sites = by_size(metrics)[:MAX_ROWS]
    pooled = metrics.get("pooled_private") or {}
    bottom = len(sites) + (2 if pooled else 0)
    height = 0.75 + 0.235 * bottom
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.32, 0.48 / height, 0.49, 1 - 0.5 / height))
    lows = [0.5, *(v for s in sites if (v := finite((s.get("private") or {}).get("auc_low"))))]
    lows += [v for v in [finite(pooled.get("prediction_low"))] if v is not None]
    axes.set(
        xlim=(max(0.0, math.floor(min(lows) * 10) / 10 - 0.02), 1.02),
        xlabel="AUC",
        ylim=(bottom - 0.4, -1.1),
    )
    axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    rows = [_forest_row(axes, y, site) for y, site in enumerate(sites)]
    if pooled:
        rows += _diamond(axes, len(sites), pooled)
    side = axes.get_yaxis_transform()
    for y, (left, middle, right) in enumerate(rows):
        weight = "bold" if pooled and y == len(sites) else "normal"
        colour = MUTED if right.startswith("left out") or right == DASH else INK
        axes.text(-0.645, y, left, transform=side, va="center", weight=weight, color=colour)
        axes.text(-0.02, y, middle, transform=side, ha="right", va="center", color=colour)
        if right.startswith("left out"):
            axes.text(
                0.01,
                y,
                _name(right, 70),
                transform=side,
                va="center",
                color=MUTED,
                style="italic",
                backgroundcolor="white",
            )
        else:
            axes.text(1.02, y, right, transform=side, va="center", weight=weight, color=colour)
    heads = (
        (-0.645, "left", "Hospital"),
        (-0.02, "right", "Declared"),
        (1.02, "left", "AUC [95% interval]"),
    )
    for x, side_of, head in heads:
        axes.text(x, -0.95, head, transform=side, ha=side_of, va="center", color=MUTED)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    said = "; ".join(f"{left.strip()} {right}" for left, _, right in rows)
    return Drawing(figure, "Released AUC of each hospital", f"{said}.")


def _forest_row(axes: Axes, y: int, site: Site) -> tuple[str, str, str]:
    """One hospital: its mark and line; returns its name, declared size and figures as text."""
    private = site.get("private") or {}
    auc, low, high = (finite(private.get(key)) for key in ("auc", "auc_low", "auc_high"))
    left, middle = _name(site), show(site.get("declared"), 0)
    if not took_part(site):
        return left, middle, str(site["status"])
    if auc is None:
        return left, middle, DASH
    size = 4.0
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=BLUE, linewidth=1.2, solid_capstyle="butt")
        size = min(max(2.6 / math.sqrt(max(high - low, 0.01)), 3.5), 9.0)
    axes.plot([auc], [y], "s", color=BLUE, markersize=size, markeredgewidth=0)
    return left, middle, f"{show(auc, 2)} [{show(low, 2)}, {show(high, 2)}]"


def _diamond(axes: Axes, y: int, pooled: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The pooled mean as a diamond and where a new hospital's true AUC is expected."""
    keys = ("auc", "low", "high", "prediction_low", "prediction_high")
    mean, low, high, first, last = (finite(pooled.get(key)) for key in keys)
    axes.axhline(y - 0.5, color=FAINT, linewidth=0.8)
    if mean is not None and low is not None and high is not None:
        corners = [(low, y), (mean, y - 0.3), (high, y), (mean, y + 0.3)]
        axes.add_patch(Polygon(corners, facecolor=RED, edgecolor="none", zorder=3))
        axes.vlines(mean, -0.4, y, color=RED, linewidth=0.7, linestyle=(0, (3, 3)), zorder=0.5)
    if first is not None and last is not None:
        axes.plot([first, last], [y + 1, y + 1], color=RED, marker="|", markersize=7)
    return [
        ("Random-effects mean", "", f"{show(mean, 2)} [{show(low, 2)}, {show(high, 2)}]"),
        ("A new hospital (prediction)", "", f"[{show(first, 2)}, {show(last, 2)}]"),
    ]
