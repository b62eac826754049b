"""How the report's pictures are drawn: one style, one way to accessible SVG, shared pieces.

Text stays text, so that it can be searched, enlarged and read aloud. Equal metrics give equal
bytes.
"""

from __future__ import annotations

import html
import io
import math
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.report.values import DASH, Metrics, Site

WIDTH = 7.9  # inches: the column of the page
MAX_PANELS = 12
INK, MUTED, FAINT, BLUE, RED = "#1c2530", "#5b6672", "#d7dde3", "#0b5c99", "#b8460e"
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


def render(draw: Callable[[Metrics], Drawing | None], metrics: Metrics, *, name: str) -> str:
    """Draw in the common style and write what was drawn as SVG; empty if there was nothing.

    Args:
        draw: makes the drawing, or None where there is nothing to draw.
        metrics: figures of a run, for `draw`.
        name: of the picture, one of its own on the page: identifiers inside the SVG rest on it.

    Returns:
        A complete `<svg>` element, or an empty string.

    >>> render(lambda metrics: None, {}, name="nothing")
    ''
    """
    style = {**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": f"grandrounds-{name}"}
    style.pop("backend", None)
    with _LOCK, matplotlib.rc_context(style), warnings.catch_warnings():
        # The reader's browser has the letters that the font used for measuring lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        drawing = draw(metrics)
        return "" if drawing is None else _to_svg(name, drawing)


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


def short_name(site: Site | str, width: int = 24) -> str:
    """A hospital's name on one line, shortened, without control characters."""
    text = site if isinstance(site, str) else str(site.get("name") or DASH)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def blank(width: float, height: float) -> Figure:
    """An empty white figure of a size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def small_multiples(
    panels: int, height: float, *, xlabel: str, ylabel: str
) -> tuple[Figure, list[Axes]]:
    """Small multiples with shared axes, at most four to a row."""
    columns = 3 if panels in (5, 6, 9) else min(panels, 4)
    rows = math.ceil(panels / columns)
    figure = blank(min(WIDTH, 1.0 + 2.1 * columns), 0.55 + height * rows)
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for index, spare in enumerate(axes[panels:], start=panels):
        spare.set_visible(False)
        axes[index - columns].tick_params(labelbottom=True)
    figure.supxlabel(xlabel, fontsize=8)
    figure.supylabel(ylabel, fontsize=8)
    return figure, axes[:panels]
