"""How the report reads a run's figures: what is missing, how a number is shown, who took part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Metrics = Mapping[str, Any]
Site = Mapping[str, Any]

DASH = "\N{EN DASH}"  # what a missing figure is shown as


C_INDICES = (("mean_c_index", "C-index"), ("pooled_c_index", "Pooled C-index"))
_OF_CLASSES = (
    ("mean_auc", "AUC"),
    ("mean_accuracy", "Accuracy"),
    ("weighted_accuracy", "Weighted accuracy"),
)


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


def is_graded(metrics: Metrics) -> bool:
    """Say whether a run's classes are grades, so that its arms have a weighted kappa.

    >>> is_graded({"arms": {"local": {"mean_kappa": 0.4}}}), is_graded({})
    (True, False)
    """
    arms = (metrics.get("arms") or {}).values()
    return any(finite(arm.get("mean_kappa")) is not None for arm in arms)


def of_survival(metrics: Metrics) -> bool:
    """Say whether a run is of times to an event, so that its arms have a concordance index.

    >>> of_survival({"arms": {"local": {"mean_c_index": 0.7}}}), of_survival({})
    (True, False)
    """
    arms = (metrics.get("arms") or {}).values()
    return any(finite(arm.get("mean_c_index")) is not None for arm in arms)


def headline(metrics: Metrics) -> tuple[str, str]:
    """Return the figure by which arms are compared: its name in a row, and in words.

    >>> headline({})
    ('auc', 'AUC')
    """
    return ("c_index", "C-index") if of_survival(metrics) else ("auc", "AUC")


def arm_columns(metrics: Metrics) -> tuple[tuple[str, str], ...]:
    """List an arm's figures as tables show them: (key in its row, heading).

    >>> [heading for _, heading in arm_columns({})]
    ['AUC', 'Accuracy', 'Weighted accuracy', 'Brier']
    """
    if of_survival(metrics):
        return (*C_INDICES, ("mean_auc", "AUC"), ("mean_brier", "Brier"))
    kappa = (("mean_kappa", "Kappa"),) if is_graded(metrics) else ()
    return (*_OF_CLASSES, ("mean_brier", "Brier"), *kappa)


def site_columns(metrics: Metrics) -> tuple[tuple[str, str], ...]:
    """List a hospital's figures, likewise: (key, heading)."""
    key, heading = headline(metrics)
    return ((key, heading), ("auc", "AUC") if key != "auc" else ("accuracy", "Accuracy"))


def published_columns(metrics: Metrics) -> tuple[tuple[str, str], ...]:
    """List the figures that others print too, likewise."""
    return C_INDICES if of_survival(metrics) else _OF_CLASSES


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


def sites_with(metrics: Metrics, key: str) -> list[Site]:
    """The hospitals that released `key`, largest first."""
    return [s for s in by_size(metrics) if took_part(s) and (s.get("private") or {}).get(key)]
