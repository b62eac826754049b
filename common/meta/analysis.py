"""A whole meta-analysis as plain JSON values, of which tables, pictures and page are made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from common.errors import DataError
from common.meta import bias
from common.meta.effects import MEASURES
from common.meta.heterogeneity import METHODS, Array, Places, tau2_interval
from common.meta.influence import cumulative, influence, leave_one_out
from common.meta.models import FEWEST, TESTS, Pooled, pool, weights
from common.meta.moderators import features, regress, subgroups
from common.meta.tables import Effects, cells, check_effects
from common.meta.values import on_both_scales, plain, pooled_values

LEVEL = 0.95


def analyse(
    effects: Effects,
    *,
    method: str = "REML",
    test: str = "z",
    by: str | None = None,
    on: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Pool effects and say what bears on the answer; the README lists the keys.

    Args:
        effects: of the studies.
        method: one of `common.meta.heterogeneity.METHODS`.
        test: one of `common.meta.models.TESTS`.
        by: column of groups to pool apart.
        on: columns of a meta-regression.
        seed: of the networks that `on` is also given to.

    Returns:
        Plain values: estimates on the analysis scale, with `ratio` or `auc` beside where the
        reader's scale is another. What cannot be said is None, and `notes` say why.

    Raises:
        DataError: if a method, test, variance or column is not usable.
    """
    for name, given, allowed in (("method", method, METHODS), ("test", test, TESTS)):
        if given not in allowed:
            raise DataError(f"{name} is {given!r}", remedy=f"use one of {', '.join(allowed)}")
    check_effects(effects)
    y, v = effects.y, effects.v
    pooled = pool(y, v, method=method, test=test)
    values = _main(effects, pooled)
    values["hartung_knapp"] = pooled_values(effects.measure, pool(y, v, method=method, test="knha"))
    values |= _bias(effects, method, test)
    values["studies"] = _studies(effects, pooled, by)
    values |= _cumulative(effects, method, test)
    values["subgroups"] = None if by is None else _subgroups(effects, by, method, test)
    values["regression"] = _regression(effects, on, method, test, seed) if on else None
    values["notes"] = [*effects.notes, *_notes(effects, values)]
    found: dict[str, Any] = plain(values)
    return found


def _main(effects: Effects, pooled: Pooled) -> dict[str, Any]:
    several = pooled.k > 1
    ends = None
    if several and pooled.estimator != "FE":
        ends = tau2_interval(effects.y, effects.v, level=LEVEL)
    measure = MEASURES[effects.measure]
    return {
        "measure": effects.measure,
        "measure_name": measure.name,
        "scale": measure.scale,
        "null": measure.null,
        "method": pooled.estimator,
        "test": pooled.test,
        "model": pooled.method,
        "k": pooled.k,
        **pooled_values(effects.measure, pooled),
        "tau2": pooled.tau2 if several else None,
        "tau2_low": ends[0] if ends else None,
        "tau2_high": ends[1] if ends else None,
        "i2": pooled.i2 if several else None,
        "h2": pooled.h2 if several else None,
        "q": pooled.q,
        "q_p": pooled.q_p if several else None,
    }


def _bias(effects: Effects, method: str, test: str) -> dict[str, Any]:
    y, v = effects.y, effects.v
    egger, begg = bias.egger(y, v, method=method), bias.begg(y, v)
    filled = bias.trim_and_fill(y, v, method=method, test=test)
    if filled is None:
        return {"egger": None, "begg": None, "trim_and_fill": None}
    other = bias.trim_and_fill(y, v, method=method, test=test, estimator="R0")
    return {
        "egger": None if egger is None else dict(vars(egger)),
        "begg": None if begg is None else {"tau": begg[0], "p": begg[1]},
        "trim_and_fill": {
            "k0": filled.k0,
            "k0_r0": None if other is None else other.k0,
            "side": filled.side,
            **pooled_values(effects.measure, filled.pooled),
            "tau2": filled.pooled.tau2,
            "studies": [
                {"estimate": a, "se": b} for a, b in zip(filled.y, filled.v**0.5, strict=True)
            ],
        },
    }


def _studies(effects: Effects, pooled: Pooled, by: str | None) -> list[dict[str, Any]]:
    y, v = effects.y, effects.v
    group = None if by is None else cells(effects.table, by)
    found = influence(y, v, method=pooled.estimator)
    without = leave_one_out(y, v, method=pooled.estimator, test=pooled.test)
    shares, half = weights(v, pooled.tau2), norm.isf((1 - LEVEL) / 2) * np.sqrt(v)
    rows = []
    for i, label in enumerate(effects.labels):
        ends = {"estimate": y[i], "ci_low": y[i] - half[i], "ci_high": y[i] + half[i]}
        row = {"name": label, "se": math.sqrt(v[i]), **on_both_scales(effects.measure, ends)}
        row["weight"] = shares[i]
        row["group"] = None if group is None or pd.isna(group.iloc[i]) else str(group.iloc[i])
        row["influence"] = found and {name: values[i] for name, values in vars(found).items()}
        row["without"] = None
        if without:
            row["without"] = pooled_values(effects.measure, without[i]) | {"tau2": without[i].tau2}
        rows.append(row)
    return rows


def _cumulative(effects: Effects, method: str, test: str) -> dict[str, Any]:
    """Pool by year where every study has one, and in the order of the table elsewhere."""
    order: Places = np.arange(len(effects.y))
    said = "the table's order"
    column = next((c for c in effects.table.columns if str(c).lower() == "year"), None)
    if column is not None:
        years = pd.to_numeric(effects.table[column], errors="coerce")
        if not years.isna().any():
            order, said = np.argsort(years.to_numpy(), kind="stable"), str(column)
    found = cumulative(effects.y, effects.v, order, method=method, test=test)
    rows = [
        {
            "name": effects.labels[i],
            "k": one.k,
            "tau2": one.tau2,
            **pooled_values(effects.measure, one),
        }
        for i, one in zip(order, found, strict=True)
    ]
    return {"cumulative": rows, "cumulative_order": said}


def _subgroups(effects: Effects, by: str, method: str, test: str) -> dict[str, Any]:
    groups, between = subgroups(effects, by, method=method, test=test)
    rows = [
        {"name": name, "k": one.k, "tau2": one.tau2, "i2": one.i2, "q": one.q,
         **pooled_values(effects.measure, one)}
        for name, one in groups.items()
    ]  # fmt: skip
    said = None if between is None else dict(zip(("q", "df", "p"), between, strict=True))
    return {"column": by, "groups": rows, "between": said}


def _regression(
    effects: Effects, on: Sequence[str], method: str, test: str, seed: int
) -> dict[str, Any]:
    """Fit the regression with Knapp and Hartung's test (unless `adhoc`), and what stands by it."""
    made = features(effects, on)
    y, v = effects.y[made.rows], effects.v[made.rows]
    estimator = "REML" if method == "PM" else method
    kind = "adhoc" if test == "adhoc" else "knha"
    found = regress(y, v, made.design, made.names, method=estimator, test=kind)
    parts = ("coefficients", "se", "low", "high", "p")
    columns = ("estimate", "se", "ci_low", "ci_high", "p")
    rows = [
        {
            "name": name,
            **{c: getattr(found, part)[i] for part, c in zip(parts, columns, strict=True)},
        }
        for i, name in enumerate(found.names)
    ]
    kept = ("tau2", "r2", "q_residual", "q_residual_p", "omnibus_p", "k")
    prediction = None
    if len(y) >= made.design.shape[1] + 2 and np.ptp(y) > 0:
        prediction = _prediction(y, v, made.design, seed)
    return {
        "columns": list(on),
        "method": estimator,
        "test": kind,
        "coefficients": rows,
        **{name: getattr(found, name) for name in kept},
        "left_out": [x for x, used in zip(effects.labels, made.rows, strict=True) if not used],
        "prediction": prediction,
    }


def _prediction(y: Array, v: Array, design: Array, seed: int) -> dict[str, Any]:
    from common.meta.neural import compare, verdict  # torch takes seconds, and only this needs it

    found = compare(y, v, design, seed=seed)
    scores = {n: {"rmse": one.rmse, "log_density": one.log_density} for n, one in found.items()}
    return {**scores, "seed": seed, "verdict": verdict(y, found)}


def _notes(effects: Effects, values: dict[str, Any]) -> Iterable[str]:
    """Say what cannot be said, and why."""
    k = values["k"]
    if k == 1:
        yield "One study: its own estimate; how studies differ cannot be known."
    elif k < FEWEST and values["method"] != "FE":
        yield ("Two studies: no prediction interval, for it would rest on k - 2 = 0 degrees of "
               "freedom, and no test of the funnel.")  # fmt: skip
    if values["method"] == "FE":
        yield "A fixed effect supposes one true value, so there is no prediction interval."
    if k > 1 and np.ptp(effects.y) == 0:
        yield "All effects are equal: no variance between studies, and Q is 0."
    if FEWEST <= k < bias.FEW:
        yield f"{k} studies: Egger's and Begg's tests have little power below {bias.FEW}."
    if k >= FEWEST and values["egger"] is None:
        yield "No Egger test: the standard errors are all equal, or the effects lie on its line."
    low, high = values["tau2_low"], values["tau2_high"]
    if low is not None and not low <= values["tau2"] <= high:
        yield "The interval of tau2 (Q-profile) leaves the estimate out, as it may: Q makes it."
    if k >= FEWEST and values["trim_and_fill"] is None:
        yield "No trim and fill: its number of missing studies goes round in circles."
    if values["test"] == "z" and 1 < k < 20 and values["method"] != "FE":
        yield ("Normal intervals take tau2 for known; with so few studies Hartung and Knapp's are "
               "the honest ones (--test knha).")  # fmt: skip
