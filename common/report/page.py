"""The study report: one self-contained HTML file from the figures of a run.

The words and the numbers are chosen here; `page.html` only lays them out. Nothing is fetched and
no script runs, so the file reads the same on an ethics board's computer without a network.
"""

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from common.report import figures
from common.report.figures import DASH, Metrics, Site, by_size, finite, show, took_part

EXACT = "exact; would not leave the hospital"
RELEASED = "released through the gate, includes noise"
RELEASED_PLAIN = "released through the gate without noise: not private"
REBUILD = "grandrounds report RUN_DIR"
_WITHIN = ", within the spread over seeds"
_FEW = 5  # with fewer hospitals the variance between them is barely estimable


def report_html(metrics: Metrics) -> str:
    """Write the report of a run as one HTML file with its styles and pictures inside.

    Args:
        metrics: figures of a run, as `grandrounds sim run --json` prints them. Anything missing
            is shown as an en dash, or its section says why it is absent.

    Returns:
        The whole file as text; equal metrics give equal text.

    >>> "Not private" in report_html({"title": "Demo", "privacy": {"private": False}})
    True
    """
    source = resources.files("common.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(source)
    text = page.render(
        title=str(metrics.get("title") or metrics.get("study") or "Study report"),
        study=str(metrics.get("study") or ""),
        verdict=verdict(metrics),
        accuracy=accuracy_line(metrics),
        epsilon=epsilon_line(metrics),
        private=is_private(metrics),
        privacy=privacy_rows(metrics),
        statement=(metrics.get("privacy") or {}).get("statement"),
        releases=_releases(metrics),
        main=str(metrics.get("main_arm") or "main arm"),
        arms=arm_rows(metrics),
        seeds=int(finite(metrics.get("seeds")) or 1),
        sites=_site_rows(metrics),
        released=_released_rows(metrics),
        exact=EXACT,
        gate=_gate_label(metrics),
        pictures=_pictures(metrics),
        footer=_footer(metrics),
        rebuild=REBUILD,
    )
    return text.strip() + "\n"


def is_private(metrics: Metrics) -> bool:
    """Say whether the run claims a guarantee: marked private, with a finite epsilon and a delta.

    >>> is_private({"privacy": {"private": True, "epsilon": None}})
    False
    """
    privacy = metrics.get("privacy") or {}
    figures_given = all(finite(privacy.get(key)) is not None for key in ("epsilon", "delta"))
    return privacy.get("private") is True and figures_given


def epsilon_line(metrics: Metrics) -> str:
    """Name epsilon with everything it means nothing without, or say 'not private'.

    >>> epsilon_line({})
    'not private'
    """
    if not is_private(metrics):
        return "not private"
    p = metrics["privacy"]
    return (
        f"epsilon {p['epsilon']:.3g} at delta {p['delta']:.2g}; unit: {p.get('unit') or DASH}; "
        f"adjacency: {p.get('adjacency') or DASH}; accountant: {p.get('accountant') or DASH}"
    )


def _best_form(arm: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any], str] | None:
    """The better of an arm's two forms, shared and adapted; None where neither has a figure."""
    forms = [(arm, "shared model"), (arm.get("adapted") or {}, "after local adaptation")]
    known = [form for form in forms if finite(form[0].get(key)) is not None]
    return max(known, key=lambda form: finite(form[0].get(key)) or 0.0, default=None)


def _against(metrics: Metrics, name: str, mine: Mapping[str, Any]) -> str | None:
    """Compare the main arm's mean AUC with the better form of another arm, in plain words."""
    other = _best_form((metrics.get("arms") or {}).get(name) or {}, "mean_auc")
    if other is None or name == metrics.get("main_arm"):
        return None
    theirs, form = other
    gap = round(float(mine["mean_auc"]), 3) - round(float(theirs["mean_auc"]), 3)
    label = {"local": "each hospital training alone", "pooled": "pooling all patients"}[name]
    arm = metrics["arms"][name]
    marks = ", adapted" if form != "shared model" else ""
    marks += ", not private" if is_private(metrics) and not arm.get("private") else ""
    label += f" ({show(theirs['mean_auc'])}{marks})"
    if abs(gap) < 5e-4:
        return f"equal to {label}"
    words = f"{abs(gap):.3f} {'above' if gap > 0 else 'below'} {label}"
    spreads = [finite(mine.get("sd_auc")), finite(theirs.get("sd_auc"))]
    if (finite(metrics.get("seeds")) or 1) > 1 and None not in spreads:
        within = abs(gap) <= max(s for s in spreads if s is not None)
        words += _WITHIN if within else ", more than the spread over seeds"
    return words


def verdict(metrics: Metrics) -> str:
    """Say in one sentence how the main arm compares with local and pooled training.

    The measure is always the mean AUC, of the adapted form where there is one, and each opponent
    stands in its better form, so that the sentence cannot pick what flatters the main arm.

    Args:
        metrics: figures of a run; uses `arms`, `main_arm`, `sites`, `privacy`, `seeds`.

    Returns:
        One sentence of plain text.

    >>> arms = {"reptile": {"mean_auc": 0.84}, "local": {"mean_auc": 0.85}}
    >>> verdict({"main_arm": "reptile", "arms": arms})
    ... # doctest: +NORMALIZE_WHITESPACE
    'Without privacy, the shared reptile model reaches a mean AUC of 0.840 over the hospitals:
    0.010 below each hospital training alone (0.850) (one seed: the spread is not known).'
    """
    main = str(metrics.get("main_arm") or "")
    arm = (metrics.get("arms") or {}).get(main) or {}
    adapted = arm.get("adapted") or {}
    mine = adapted if finite(adapted.get("mean_auc")) is not None else arm
    if finite(mine.get("mean_auc")) is None:
        return "No mean AUC of the main arm is defined, so this run supports no comparison."
    start = f"With {epsilon_line(metrics).partition(';')[0]}" if is_private(metrics) else ""
    model = f"{main} adapted to each hospital" if mine is adapted else f"the shared {main} model"
    count = sum(map(took_part, metrics.get("sites") or []))
    over = {0: "the hospitals", 1: "one hospital"}.get(count, f"{count} hospitals")
    text = f"{start or 'Without privacy'}, {model} reaches a mean AUC of {show(mine['mean_auc'])}"
    text += f" over {over}"
    compared = [c for name in ("local", "pooled") if (c := _against(metrics, name, mine))]
    if len(compared) > 1 and all(words.endswith(_WITHIN) for words in compared):
        ends = " and ".join(words.removesuffix(_WITHIN) for words in compared)
        compared = [ends + ", both within the spread over seeds"]
    text += ": " + ", and ".join(compared) if compared else "; it was compared with no other arm"
    single = (finite(metrics.get("seeds")) or 1) <= 1 and bool(compared)
    return text + (" (one seed: the spread is not known)." if single else ".")


def accuracy_line(metrics: Metrics) -> str:
    """List the mean accuracy of the main arm, local, pooled and majority, whoever wins.

    >>> accuracy_line({"arms": {"local": {"mean_accuracy": 0.8, "private": False}}})
    'Mean accuracy: local 0.800 (not private).'
    """
    said = []
    for name in dict.fromkeys((metrics.get("main_arm"), "local", "pooled", "majority")):
        arm = (metrics.get("arms") or {}).get(name) or {}
        best = _best_form(arm, "mean_accuracy")
        if name == metrics.get("main_arm") and (arm.get("adapted") or {}).get("mean_accuracy"):
            best = (arm["adapted"], "after local adaptation")
        if best is not None:
            form = ", adapted" if best[1] != "shared model" else ""
            kept = "private" if arm.get("private") else "not private"
            kept = "" if name == "majority" else f" ({kept}{form})"
            said.append(f"{name} {show(best[0]['mean_accuracy'])}{kept}")
    return f"Mean accuracy: {'; '.join(said)}." if said else ""


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


def _releases(metrics: Metrics) -> list[list[str]]:
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


def arm_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """List the arms with their figures as text, shared then adapted.

    >>> arm_rows({"arms": {"local": {"mean_auc": 0.85}}})[0]["shared"]
    ['0.850', '–', '–', '–']
    """
    rows = []
    seeds = finite(metrics.get("seeds")) or 1
    for name, arm in (metrics.get("arms") or {}).items():
        epsilon = finite(arm.get("epsilon"))
        kept = "not private" if not arm.get("private") else DASH
        forms = [
            [
                _spread(form, "auc", seeds),
                _spread(form, "accuracy", seeds),
                show(form.get("weighted_accuracy")),
                show(form.get("mean_brier")),
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


def _site_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """The hospitals in the study's order: size, status, exact figures of two arms."""
    rows = []
    for site in metrics.get("sites") or []:
        arms = site.get("arms") or {}
        main, local = (arms.get(name) or {} for name in (metrics.get("main_arm"), "local"))
        forms = (main, main.get("adapted") or {}, local)
        cells = [show(site.get(key), 0) for key in ("train_patients", "holdout_patients")]
        cells += [show(form.get(key)) for form in forms for key in ("auc", "accuracy")]
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


def _released_rows(metrics: Metrics) -> list[list[str]]:
    """What each hospital released of its holdout, largest hospital first."""
    keys = ["auc", "accuracy", "sensitivity", "specificity", "brier"]
    keys += ["calibration_slope", "calibration_intercept"]
    sites: list[Site] = [s for s in by_size(metrics) if s.get("private") and took_part(s)]
    return [[str(s["name"]), *(_interval(s["private"], key) for key in keys)] for s in sites]


def _gate_label(metrics: Metrics) -> str:
    """How released figures are marked: noise is claimed only where there was some."""
    return RELEASED if is_private(metrics) else RELEASED_PLAIN


def _note(shown: int, total: int) -> str:
    """Say which hospitals a picture leaves to the tables."""
    return f" Only the {shown} largest of {total} hospitals are drawn." if total > shown else ""


def _pooled_note(metrics: Metrics) -> str:
    """Put the random-effects mean and the prediction interval into words."""
    p = metrics.get("pooled_private") or {}
    if finite(p.get("auc")) is None:
        return " No random-effects mean: too few hospitals released an AUC with an interval."
    ends = f"{show(p.get('low'), 2)} to {show(p.get('high'), 2)}"
    text = (
        f" The diamond is the random-effects mean of {show(p.get('k'), 0)} hospitals, "
        f"{show(p['auc'], 2)} (95% interval {ends}); tau² {show(p.get('tau2'), 3)} on the logit "
        f"scale; {p.get('method') or 'method not stated'}."
    )
    text += " The line under it is where the true AUC of a new, similar hospital is expected (95%)."
    if (finite(p.get("k")) or 0) < _FEW:
        text += " With so few hospitals the variance between them is barely estimable."
    return text


def _captions(metrics: Metrics) -> dict[str, tuple[Callable[[Metrics], str], str, str, str]]:
    """List the pictures in page order: how to draw, label, how to read, why it may be absent."""
    gate, epsilon = _gate_label(metrics), epsilon_line(metrics)
    total = sum(map(took_part, metrics.get("sites") or []))
    panels = _note(figures.MAX_PANELS, total)
    seeds = int(finite(metrics.get("seeds")) or 1)
    bars = (
        f"Bars reach one standard deviation over {seeds} seeds to either side; marks whose bars "
        "overlap should not be ranked."
        if seeds > 1
        else "There are no bars: one seed was run, so the spread is not known."
    )
    return {
        "epsilon": (
            figures.epsilon_by_round,
            "computed from the study\u2019s plan alone, without patients",
            "What one training patient has spent after each round. Lower is more private; it never "
            f"falls. The dashed line is the epsilon stated above ({epsilon}).",
            "Epsilon by round is absent: the run is not private or gives no account by round.",
        ),
        "arms": (
            figures.arms,
            EXACT,
            "Further right is better. Full circles: one model for all hospitals. Open diamonds: "
            f"after each hospital fitted it to its own patients. {bars} "
            "An arrow gives the majority vote where it is off the scale.",
            "No arm was evaluated.",
        ),
        "curves": (
            figures.learning_curves,
            EXACT,
            "How well the shared model ranks each hospital\u2019s held-out patients as rounds pass "
            "(0.5 is chance, 1 is perfect; first seed). A line that falls is a hospital for which "
            "further rounds made the shared model worse.",
            "Learning curves are absent: none were recorded.",
        ),
        "forest": (
            figures.forest,
            gate,
            "Each square is a hospital\u2019s AUC, larger where it is known better; the line is "
            "its 95% interval, with the noise included. The dotted line at 0.5 is chance."
            + _pooled_note(metrics)
            + _note(figures.MAX_ROWS, len(metrics.get("sites") or [])),
            "No hospital released an AUC.",
        ),
        "calibration": (
            figures.calibration,
            gate,
            "Points on the dashed diagonal mean that of patients given a risk of 30%, 30% have the "
            "disease; below it the model overstates the risk. Bars are 95% intervals with sampling "
            "and noise; bins with fewer patients than the noise can hide are not drawn." + panels,
            "No hospital released a histogram of scores, so calibration is not known.",
        ),
        "benefit": (
            figures.decision_curves,
            gate,
            "Net benefit counts the patients rightly treated, less those wrongly treated at the "
            "exchange rate that the threshold implies. Where the blue line is above both others, "
            "deciding by the model does more good than treating everybody or nobody." + panels,
            "",
        ),
    }


def _pictures(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Every figure with its number, label and caption; what to say where it is absent."""
    pictures: dict[str, dict[str, Any]] = {}
    number = 0
    for name, (draw, label, caption, absent) in _captions(metrics).items():
        svg = draw(metrics)
        number += bool(svg)
        # Safe as it stands: matplotlib and `figures` escape every text of the metrics in it.
        picture = {"svg": Markup(svg), "number": number, "label": label}
        pictures[name] = {**picture, "caption": caption, "absent": absent}
    return pictures


def _footer(metrics: Metrics) -> list[tuple[str, str]]:
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
