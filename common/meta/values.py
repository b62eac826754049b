"""Estimates as plain JSON values, on the analysis scale and on the reader's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.meta.effects import MEASURES, back
from common.meta.models import Pooled

_ENDS = ("estimate", "ci_low", "ci_high", "prediction_low", "prediction_high")


def pooled_values(measure: str, pooled: Pooled) -> dict[str, Any]:
    """Return a pooled mean and its intervals, and the same on the reader's scale.

    Args:
        measure: a key of `common.meta.effects.MEASURES`.
        pooled: on the analysis scale.
    """
    low, high = pooled.prediction_low, pooled.prediction_high
    ends = dict(zip(_ENDS, (pooled.mean, pooled.low, pooled.high, low, high), strict=True))
    return {"se": pooled.se, **on_both_scales(measure, ends)}


def on_both_scales(measure: str, ends: Mapping[str, float | None]) -> dict[str, Any]:
    """Return values of the analysis scale with `ratio` or `auc` beside, None where it has none.

    >>> on_both_scales("OR", {"estimate": 0.0})
    {'estimate': 0.0, 'ratio': {'estimate': 1.0}, 'auc': None}
    """
    reader = {name: back(measure, value) for name, value in ends.items()}
    ratio = reader if MEASURES[measure].ratio else None
    return {**ends, "ratio": ratio, "auc": reader if measure == "AUC" else None}


def plain(value: Any) -> Any:
    """Return values as JSON has them: plain numbers, and None for one that is not finite.

    >>> plain({"a": np.float64("nan"), "b": (np.int64(1), np.bool_(True))})
    {'a': None, 'b': [1, True]}
    """
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(one) for one in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
