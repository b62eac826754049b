"""The report's sentences: the verdict, the guarantee in words, the labels of what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report.values import DASH, Metrics, finite, headline, show, took_part

EXACT = "exact; would not leave the hospital"
RELEASED = "released through the gate, includes noise"
RELEASED_PLAIN = "released through the gate without noise: not private"
REBUILD = "grandrounds report RUN_DIR"
DEPLOYED = "deployment"  # the engine of a run over real hospitals
_WITHIN = ", within the spread over seeds"


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
    """Compare the main arm's mean figure with the better form of another arm, in plain words."""
    own, key = headline(metrics)[0], f"mean_{headline(metrics)[0]}"
    other = _best_form((metrics.get("arms") or {}).get(name) or {}, key)
    if other is None or name == metrics.get("main_arm"):
        return None
    theirs, best = other
    gap = round(float(mine[key]), 3) - round(float(theirs[key]), 3)
    label = {"local": "each hospital training alone", "pooled": "pooling all patients"}[name]
    arm = metrics["arms"][name]
    marks = ", adapted" if best != "shared model" else ""
    marks += ", not private" if is_private(metrics) and not arm.get("private") else ""
    label += f" ({show(theirs[key])}{marks})"
    if abs(gap) < 5e-4:
        return f"equal to {label}"
    words = f"{abs(gap):.3f} {'above' if gap > 0 else 'below'} {label}"
    spreads = [finite(form.get(f"sd_{own}")) for form in (mine, theirs)]
    if (finite(metrics.get("seeds")) or 1) > 1 and None not in spreads:
        within = abs(gap) <= max(s for s in spreads if s is not None)
        words += _WITHIN if within else ", more than the spread over seeds"
    return words


def verdict(metrics: Metrics) -> str:
    """Say in one sentence how the main arm compares with local and pooled training.

    The measure is always the mean AUC (of survival the mean C-index), of the adapted form where
    there is one, and each opponent stands in its better form, so that the sentence cannot pick what
    flatters the main arm.

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
    if is_deployed(metrics):
        return _released_verdict(metrics, main)
    arm = (metrics.get("arms") or {}).get(main) or {}
    adapted = arm.get("adapted") or {}
    figure = headline(metrics)[1]
    key = f"mean_{headline(metrics)[0]}"
    mine = adapted if finite(adapted.get(key)) is not None else arm
    if finite(mine.get(key)) is None:
        return f"No mean {figure} of the main arm is defined, so this run supports no comparison."
    start = f"With {epsilon_line(metrics).partition(';')[0]}" if is_private(metrics) else ""
    model = f"{main} adapted to each hospital" if mine is adapted else f"the shared {main} model"
    count = sum(map(took_part, metrics.get("sites") or []))
    over = {0: "the hospitals", 1: "one hospital"}.get(count, f"{count} hospitals")
    text = f"{start or 'Without privacy'}, {model} reaches a mean {figure} of {show(mine[key])}"
    text += f" over {over}"
    compared = [c for name in ("local", "pooled") if (c := _against(metrics, name, mine))]
    if len(compared) > 1 and all(words.endswith(_WITHIN) for words in compared):
        ends = " and ".join(words.removesuffix(_WITHIN) for words in compared)
        compared = [ends + ", both within the spread over seeds"]
    text += ": " + ", and ".join(compared) if compared else "; it was compared with no other arm"
    single = (finite(metrics.get("seeds")) or 1) <= 1 and bool(compared)
    return text + (" (one seed: the spread is not known)." if single else ".")


def is_deployed(metrics: Metrics) -> bool:
    """Say whether real hospitals ran it, of which only what they released is known."""
    return metrics.get("engine") == DEPLOYED


def _released_verdict(metrics: Metrics, main: str) -> str:
    """Say what the released figures say of the shared model, and that exact ones stayed home."""
    start = "Without privacy"
    if is_private(metrics):
        start = f"With {epsilon_line(metrics).partition(';')[0]}"
    sites = [site for site in metrics.get("sites") or [] if took_part(site)]
    text = f"{start}, {main} trained a shared model with {_count(len(sites), 'hospital')}"
    pooled = metrics.get("pooled_private") or {}
    known = [s for s in sites if finite((s.get("private") or {}).get("auc")) is not None]
    if finite(pooled.get("auc")) is not None:
        ends = f"{show(pooled.get('low'), 2)} to {show(pooled.get('high'), 2)}"
        text += f"; its released AUC, pooled over hospitals, is {show(pooled['auc'], 2)} ({ends})"
    elif known:
        aucs = ", ".join(f"{show(s['private']['auc'], 2)} at {s['name']}" for s in known)
        text += f"; its released AUC is {aucs}"
    else:
        text += "; no hospital released an AUC that its noise leaves readable"
    return text + ". Exact figures stayed at the hospitals."


def _count(number: int, noun: str) -> str:
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


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


def gate_label(metrics: Metrics) -> str:
    """How released figures are marked: noise is claimed only where there was some."""
    return RELEASED if is_private(metrics) else RELEASED_PLAIN
