"""Why studies differ: subgroups, and linear meta-regression on their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import chi2, norm, t
from scipy.stats import f as f_distribution

from common.errors import DataError
from common.meta.heterogeneity import Array, Mask, between_variance, mixed_model
from common.meta.models import Pooled, pool
from common.meta.tables import Effects, cells


@dataclass(frozen=True)
class Features:
    """What studies are told apart by.

    Attributes:
        names: p columns of the design, the intercept first.
        design: (n, p) values.
        rows: (k,) of bool, the n studies without a blank.
    """

    names: tuple[str, ...]
    design: Array
    rows: Mask


def features(effects: Effects, columns: Sequence[str]) -> Features:
    """Build a design of an intercept, numbers as they are and words as indicators.

    A column of words has one indicator a level but the first in the alphabet, which the others are
    compared with (as R has it).

    Args:
        effects: with their table.
        columns: of the table.

    Returns:
        The design of the studies without a blank.

    Raises:
        DataError: if a column is missing, says nothing, or is a combination of others, or there
            are too few studies for so many coefficients.
    """
    table = effects.table
    text = {name: cells(table, name) for name in columns}
    rows = np.all([~column.isna() for column in text.values()], axis=0)
    names, parts = ["intercept"], [np.ones(int(rows.sum()))]
    for name, column in text.items():
        words = column.to_numpy(dtype=str)[rows]
        numbers = np.asarray(pd.to_numeric(words, errors="coerce"), dtype=np.float64)
        if not np.isnan(numbers).any():
            names.append(name)
            parts.append(numbers)
            continue
        for level in sorted(set(words))[1:]:
            names.append(f"{name}: {level}")
            parts.append((words == level).astype(np.float64))
    design = np.column_stack(parts)
    said = ", ".join(columns)
    if design.shape[0] <= design.shape[1]:
        raise DataError(
            f"--on {said} makes {design.shape[1]} coefficients for {design.shape[0]} studies",
            remedy="use fewer columns: a regression needs more studies than coefficients",
        )
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise DataError(
            f"--on {said}: a column is the same for all studies or follows from the others",
            remedy="leave that column out",
        )
    return Features(tuple(names), design, rows)


@dataclass(frozen=True)
class Regression:
    """A meta-regression.

    Attributes:
        names: p coefficients, the intercept first.
        coefficients: (p,) change of the effect by one unit of the feature.
        se: (p,) their standard errors.
        low: (p,) lower ends of their intervals.
        high: (p,) upper ends.
        p: (p,) two-sided p-values.
        tau2: variance between studies that is left.
        r2: share of the variance between studies that the features take up; None if there is none.
        q_residual: what is left of Q.
        q_residual_p: its p-value.
        omnibus_p: of no feature bearing on the effect.
        k: studies.
    """

    names: tuple[str, ...]
    coefficients: Array
    se: Array
    low: Array
    high: Array
    p: Array
    tau2: float
    r2: float | None
    q_residual: float
    q_residual_p: float
    omnibus_p: float
    k: int


def regress(
    y: Array,
    v: Array,
    design: Array,
    names: Sequence[str],
    *,
    method: str = "REML",
    test: str = "knha",
    level: float = 0.95,
) -> Regression:
    """Fit a mixed-effects meta-regression (Thompson and Higgins, Stat Med 2002).

    Args:
        y: (k,) effects.
        v: (k,) their sampling variances.
        design: (k, p) with the intercept first, of full rank, p < k.
        names: p of its columns.
        method: of the between-study variance; `PM` is read as `REML`.
        test: `knha`, Knapp and Hartung (Stat Med 2003), t on k - p degrees of freedom; `adhoc`, the
            same but never narrower; `z`, normal.
        level: of the intervals.

    Returns:
        Coefficients, what is left, and tests.
    """
    k, p = design.shape
    tau2, beta, covariance = mixed_model(y, v, design, method=method)
    residual = y - design @ beta
    df, scale = float("inf"), 1.0
    if test != "z":
        df, scale = float(k - p), float((residual**2 / (v + tau2)).sum() / (k - p))
        scale = max(1.0, scale) if test == "adhoc" else max(scale, np.finfo(float).eps)
    covariance = covariance * scale
    se = np.sqrt(np.diag(covariance))
    half = t.isf((1 - level) / 2, df) * se
    q = float((_fixed_residual(y, v, design) ** 2 / v).sum())
    total = between_variance(y, v, method=method)
    among = float(beta[1:] @ np.linalg.solve(covariance[1:, 1:], beta[1:]))
    return Regression(
        tuple(names),
        beta,
        se,
        beta - half,
        beta + half,
        2 * (norm.sf(abs(beta / se)) if test == "z" else t.sf(abs(beta / se), df)),
        tau2,
        max(0.0, 1 - tau2 / total) if total > 0 else None,
        q,
        float(chi2.sf(q, k - p)),
        float(
            chi2.sf(among, p - 1) if test == "z" else f_distribution.sf(among / (p - 1), p - 1, df)
        ),
        k,
    )


def _fixed_residual(y: Array, v: Array, design: Array) -> Array:
    return y - design @ mixed_model(y, v, design, method="FE")[1]


def subgroups(
    effects: Effects, column: str, *, method: str = "REML", test: str = "z"
) -> tuple[dict[str, Pooled], tuple[float, int, float] | None]:
    """Pool each group of studies by itself and test whether the groups' means differ.

    Every group has a between-study variance of its own. The test is Q of the groups' means with
    their squared standard errors as variances (Borenstein et al. 2009, chapter 19).

    Args:
        effects: with their table.
        column: of the table, whose values are the groups; studies with a blank are in none.
        method: as for `common.meta.models.pool`.
        test: likewise.

    Returns:
        The groups in order of appearance; Q between them, its degrees of freedom and p-value, or
        None if there is one group.

    Raises:
        DataError: if the column is missing or blank.
    """
    text = cells(effects.table, column)
    groups = list(dict.fromkeys(text.dropna()))
    if not groups:
        raise DataError(f"--by {column}: every cell is blank", remedy="name another column")
    found = {}
    for group in groups:
        mask = (text == group).to_numpy(dtype=bool)
        found[str(group)] = pool(effects.y[mask], effects.v[mask], method=method, test=test)
    if len(found) < 2:
        return found, None
    means = np.array([one.mean for one in found.values()])
    w = np.array([one.se**-2 for one in found.values()])
    q = float(w @ (means - w @ means / w.sum()) ** 2)
    return found, (q, len(found) - 1, float(chi2.sf(q, len(found) - 1)))
