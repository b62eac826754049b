"""What hospitals released, pooled: how wide the answer is, and what makes it so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.errors import DataError
from common.meta.analysis import analyse
from common.meta.models import weights
from common.meta.released import Released, Z, notes_of
from common.meta.tables import Effects
from common.meta.values import on_both_scales, plain


def pool_released(
    measure: str,
    hospitals: Mapping[str, Released],
    *,
    method: str = "REML",
    test: str = "z",
) -> dict[str, Any]:
    """Pool hospitals' effects, each with the variance that its patients and its noise make.

    The noise is in the within-hospital variance, so it is not taken for a difference between
    hospitals: Q and tau2 are of what neither patients nor noise explain.

    Args:
        measure: a key of `common.meta.effects.MEASURES`.
        hospitals: name -> what it released; those that are not to be pooled are told apart.
        method: see `common.meta.analysis.analyse`.
        test: likewise.

    Returns:
        The values of `analyse`. A hospital among `studies` has its own interval (an open end is
        None), `sampling_se` and `noise_se`, and in `sampling` the interval that its patients alone
        would make. `left_out` says who is not pooled and why, and `width` what share of the pooled
        mean's variance is `patients`, `hospitals` (their differing) and `noise`.

    Raises:
        DataError: no hospital's effect can be told from its noise.
    """
    left_out = [{"name": n, "why": r.why} for n, r in sorted(hospitals.items()) if _why(r)]
    used = {name: r for name, r in sorted(hospitals.items()) if not _why(r)}
    if not used:
        told = "; ".join(f"{row['name']}: {row['why']}" for row in left_out) or "none answered"
        raise DataError(
            f"no hospital's effect can be pooled ({told})",
            remedy="ask larger hospitals, or for a study with a larger epsilon",
        )
    y, v = (np.array([getattr(r, name) for r in used.values()]) for name in ("value", "variance"))
    notes = (*(f"{row['name']} left out: {row['why']}" for row in left_out), *notes_of(used))
    values = analyse(Effects(measure, y, v, tuple(used), notes=notes), method=method, test=test)
    tau2 = 0.0 if method == "FE" else values["tau2"] or 0.0
    for row in values["studies"]:
        row.update(plain(_own(measure, used[row["name"]])))
    return {**values, "left_out": left_out, "width": plain(_width(list(used.values()), tau2))}


def _why(row: Released) -> bool:
    return row.value is None or bool(row.why)


def _own(measure: str, row: Released) -> dict[str, Any]:
    """Return a hospital's own interval, and what patients and noise make of it."""
    assert row.value is not None  # those without are left out
    half = Z * math.sqrt(row.sampling)
    alone = {"ci_low": row.value - half, "ci_high": row.value + half}
    return {
        **on_both_scales(measure, {"estimate": row.value, "ci_low": row.low, "ci_high": row.high}),
        "sampling_se": math.sqrt(row.sampling),
        "noise_se": math.sqrt(row.noise),
        "sampling": on_both_scales(measure, alone),
    }


def _width(used: list[Released], tau2: float) -> dict[str, float]:
    """Return the shares of the pooled mean's variance, which add up to 1.

    With weights w_i that add up to 1 the mean's variance is sum w_i^2 (s_i + n_i + tau2), of
    patients, noise and differing hospitals.

    >>> _width([Released(0.0, None, None, 3.0, 1.0)], 0.0)
    {'patients': 0.75, 'hospitals': 0.0, 'noise': 0.25}
    """
    w = weights(np.array([row.variance for row in used]), tau2) ** 2
    parts = {
        "patients": float(w @ [row.sampling for row in used]),
        "hospitals": float(w.sum() * tau2),
        "noise": float(w @ [row.noise for row in used]),
    }
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items()}
