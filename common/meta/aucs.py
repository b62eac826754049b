"""AUCs of a run's hospitals, pooled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.meta.effects import auc_from_interval, back
from common.meta.models import FEWEST, pool


def pool_auc(
    aucs: Sequence[float | None],
    lows: Sequence[float | None],
    highs: Sequence[float | None],
    *,
    level: float = 0.95,
) -> dict[str, float | int | str | None] | None:
    """Pool AUCs that come with intervals, on the logit scale (Snell et al., SMMR 2018).

    By Paule and Mandel, with Hartung and Knapp's interval that is never narrower than the usual
    one. Fewer than three hospitals are not pooled: the interval of two says nothing. A hospital
    without an AUC, or whose interval is all of [0, 1], says nothing and is left out.

    Args:
        aucs: (hospitals,) estimates in [0, 1].
        lows: (hospitals,) lower ends of their intervals.
        highs: (hospitals,) upper ends.
        level: of the intervals, given and returned.

    Returns:
        `auc`, `low`, `high`, `prediction_low`, `prediction_high` (as AUCs), `tau2` (logit scale),
        `k` and `method`; None if fewer than three hospitals are left.

    Raises:
        ValueError: if the three differ in length.

    >>> pool_auc([.8, .7, .9, None], [.7, .6, .8, 0.], [.87, .8, .95, 1.])["k"]
    3
    """
    usable = [
        (auc, low, high)
        for auc, low, high in zip(aucs, lows, highs, strict=True)
        if auc is not None and low is not None and high is not None and (low > 0 or high < 1)
    ]
    if len(usable) < FEWEST:
        return None
    y, v = auc_from_interval(*np.array(usable, dtype=np.float64).T, level=level)
    pooled = pool(y, v, method="PM", test="adhoc", level=level)
    return {
        "auc": back("AUC", pooled.mean),
        "low": back("AUC", pooled.low),
        "high": back("AUC", pooled.high),
        "prediction_low": back("AUC", pooled.prediction_low),
        "prediction_high": back("AUC", pooled.prediction_high),
        "tau2": pooled.tau2,
        "k": pooled.k,
        "method": f"{pooled.method}, logit scale",
    }
