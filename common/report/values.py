"""How the report reads a run's figures: what is missing, how a number is shown, who took part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Metrics = Mapping[str, Any]
Site = Mapping[str, Any]

DASH = "\N{EN DASH}"  # what a missing figure is shown as


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


def sites_with(metrics: Metrics, key: str) -> list[Site]:
    """The hospitals that released `key`, largest first."""
    return [s for s in by_size(metrics) if took_part(s) and (s.get("private") or {}).get(key)]
