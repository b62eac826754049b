"""A table of studies read as effects: which columns say what, and what cannot be used."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from common.errors import DataError
from common.meta import columns as naming
from common.meta import effects
from common.meta.effects import MEASURES
from common.meta.heterogeneity import Array, Mask

_LABELS = ("author", "study", "source", "trial", "hospital", "site", "centre", "center", "name")
_POSITIVE = {"vi", "sei", "auc_se", "sd1i", "sd2i", "n1i", "n2i", "expected", "n", "cases",
             "controls", "ratio", "ratio_low", "ratio_high"}  # fmt: skip
_COUNTS = {"ai", "bi", "ci", "di", "observed"}
_SHARES = {"auc", "auc_low", "auc_high"}

_MOST_APART = 1e10  # variances so far apart are a mistake, and beyond double precision
_FURTHEST = 50.0  # a logarithm or logit beyond this is one that was not taken


@dataclass(frozen=True)
class Effects:
    """The studies' effects.

    Attributes:
        measure: what they are, a key of `common.meta.effects.MEASURES`.
        y: (k,) effects on the analysis scale.
        v: (k,) their sampling variances.
        labels: k names, all different.
        table: the k rows they came from, as text.
        columns: the column taken for each role.
        notes: what was corrected or left out, in words.
    """

    measure: str
    y: Array
    v: Array
    labels: tuple[str, ...]
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    columns: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_effects(
    table: pd.DataFrame, *, measure: str | None = None, columns: Mapping[str, str] | None = None
) -> Effects:
    """Read a table, a row a study, as effects.

    Which columns are taken follows from the measure and the names (metafor's, RevMan's); raw data
    go before effects that are given. A given yi, low and high are on the analysis scale; or, or.lb
    and or.ub (rr, oe) are ratios. A study with a blank among its columns is left out and said so,
    as is a table of a ratio whose groups are both empty.

    Args:
        table: cells as text.
        measure: a key of `common.meta.effects.MEASURES`; found from the columns where left out.
        columns: role (metafor's name, or `study`) to column, before any other name.

    Returns:
        The effects, and what was done to get them.

    Raises:
        DataError: if columns are missing, a cell is no number or impossible, or no study is left.
    """
    if table.empty:
        raise DataError("the table has no rows", remedy="give one row a study")
    known = naming.roles(table, columns or {})
    name, layout = naming.layout(known, measure)
    taken = {role: known[role] for role in layout}
    numbers = {role: _numbers(table, column, role) for role, column in taken.items()}
    blank = np.any([np.isnan(x) for x in numbers.values()], axis=0)
    labels = _labels(table, known.get("study"))
    scale = f", taken as {MEASURES[name].scale}" if "yi" in taken else ""
    notes = [f"{name} from the columns {', '.join(taken.values())}{scale}."]
    notes += [f"{_those(labels, blank)}: left out, a cell is blank."] if blank.any() else []
    _check(numbers, labels)
    y, v, corrected = _compute(name, numbers)
    silent = np.isnan(y) & ~blank
    if silent.any():
        notes.append(
            f"{_those(labels, silent)}: left out, both groups have no event or nothing but events, "
            "which says nothing of a ratio."
        )
    corrected = corrected & ~(blank | silent)
    if corrected.any():
        notes.append(f"{_those(labels, corrected)}: an empty cell, so 1/2 was added to every cell.")
    kept = ~(blank | silent)
    if not kept.any():
        raise DataError(
            "no study of the table can be used: " + " ".join(notes[1:]),
            remedy="fill in the cells, or use RD, of which empty tables do tell",
        )
    rows = [label for label, keep in zip(labels, kept, strict=True) if keep]
    rest = table[kept].reset_index(drop=True)
    return Effects(name, y[kept], v[kept], tuple(rows), rest, taken, tuple(notes))


def check_effects(effects: Effects) -> None:
    """Refuse effects and variances that cannot be what they are said to be.

    Raises:
        DataError: naming the first study.
    """
    measure = MEASURES[effects.measure]
    for label, y, v in zip(effects.labels, effects.y, effects.v, strict=True):
        if not (math.isfinite(y) and math.isfinite(v) and v > 0):
            raise DataError(
                f"{label!r} has the effect {y:g} with the variance {v:g}",
                remedy="give a finite effect and a variance above 0, or leave the study out",
            )
        if v * _MOST_APART < effects.v.max():
            raise DataError(
                f"{label!r} has the variance {v:g} beside another's {effects.v.max():g}",
                remedy="check its unit: no study knows so much better than another",
            )
        if (measure.ratio or effects.measure == "AUC") and abs(y) > _FURTHEST:
            raise DataError(
                f"{label!r} has {measure.scale} {y:g}",
                remedy=f"check that it is on that scale: {measure.name} would be beyond all sense",
            )


def cells(table: pd.DataFrame, column: str) -> pd.Series[str]:
    """Return a column as text, blanks and NA as missing.

    Raises:
        DataError: if there is no such column.
    """
    if column not in table.columns:
        raise DataError(
            f"the table has no column {column!r}",
            remedy=f"it has {', '.join(map(str, table.columns))}",
        )
    text = table[column].astype(str).str.strip()
    return text.mask(text.str.lower().isin({"", "na", "nan", "none"}))


def _numbers(table: pd.DataFrame, column: str, role: str) -> Array:
    """Return a column as numbers, blanks and NA as NaN."""
    text = cells(table, column)
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
    wrong = (np.isnan(numbers) & text.notna().to_numpy()) | np.isinf(numbers)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"column {column!r} ({role}), row {row + 1}: {table[column].iloc[row]!r} is no number",
            remedy="write a number, or leave the cell blank to leave the study out",
        )
    return numbers


def _labels(table: pd.DataFrame, column: str | None) -> list[str]:
    """Return a name for each row: the column given, or the first of words, with the year."""
    lower = {str(name).lower(): name for name in table.columns}
    if column is None:
        candidates = [lower[name] for name in _LABELS if name in lower]
        worded = [c for c in candidates if not table[c].astype(str).str.fullmatch(r"\d*").all()]
        column = next(iter([*worded, *candidates]), None)
        names = [f"study {row + 1}" for row in range(len(table))] if column is None else []
    else:
        names, lower = [], {}
    if column is not None:
        names = [str(cell).strip() or f"row {row + 1}" for row, cell in enumerate(table[column])]
        if "year" in lower and column != lower["year"]:
            names = [f"{n} {year}" for n, year in zip(names, table[lower["year"]], strict=True)]
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique


def _those(labels: list[str], mask: Mask) -> str:
    return ", ".join(label for label, marked in zip(labels, mask, strict=True) if marked)


def _check(numbers: Mapping[str, Array], labels: list[str]) -> None:
    """Refuse what no study can have."""
    for role, x in numbers.items():
        if role in _POSITIVE:
            _refuse(x <= 0, role, x, labels, "a number above 0")
        if role in _COUNTS:
            _refuse(x < 0, role, x, labels, "a count of at least 0")
        if role in _SHARES:
            _refuse((x < 0) | (x > 1), role, x, labels, "a number between 0 and 1")
    for part, whole in (("ai", "n1i"), ("ci", "n2i"), ("observed", "n")):
        if part in numbers and whole in numbers:
            too_many = numbers[part] > numbers[whole]
            _refuse(too_many, part, numbers[part], labels, f"no more than {whole}")
    for low, middle, high in (("low", "yi", "high"), ("ratio_low", "ratio", "ratio_high"),
                              ("auc_low", "auc", "auc_high")):  # fmt: skip
        if low in numbers:
            a, b, c = (numbers[x] for x in (low, middle, high))
            _refuse((a > b) | (b > c) | (a == c), middle, b, labels, f"within {low} and {high}")
    if "observed" in numbers and "n" in numbers:
        all_of_them = numbers["observed"] == numbers["n"]  # log O would have no variance
        _refuse(all_of_them, "observed", numbers["observed"], labels, "fewer events than n")
    if "sd1i" in numbers:
        for role in ("n1i", "n2i"):
            _refuse(numbers[role] < 2, role, numbers[role], labels, "at least 2")


def _refuse(wrong: Mask, role: str, x: Array, labels: list[str], wanted: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{role} of {labels[row]!r} (row {row + 1}) is {x[row]:g}", remedy=f"give {wanted}"
        )


def _compute(measure: str, x: Mapping[str, Array]) -> tuple[Array, Array, Mask]:
    """Return effects, variances and which were corrected, from the columns that were taken."""
    none = np.zeros(len(next(iter(x.values()))), dtype=bool)
    if "ai" in x:
        b, d = (x["bi"], x["di"]) if "bi" in x else (x["n1i"] - x["ai"], x["n2i"] - x["ci"])
        return effects.two_by_two(measure, x["ai"], b, x["ci"], d)
    if "m1i" in x:
        named = {short: x[f"{short}i"] for short in ("n1", "m1", "sd1", "n2", "m2", "sd2")}
        return *effects.mean_difference(measure, **named), none
    if "observed" in x:
        return effects.oe_effect(x["observed"], x["expected"], n=x.get("n"))
    if "auc" in x:
        return *_auc(x), none
    if "ratio" in x:
        ends = np.log([x["ratio_low"], x["ratio_high"]])
        return np.log(x["ratio"]), effects.from_interval(*ends), none
    if "vi" in x:
        return x["yi"], x["vi"], none
    if "sei" in x:
        return x["yi"], x["sei"] ** 2, none
    return x["yi"], effects.from_interval(x["low"], x["high"]), none


def _auc(x: Mapping[str, Array]) -> tuple[Array, Array]:
    if "auc_se" in x:
        return effects.auc_effect(x["auc"], se=x["auc_se"])
    if "auc_low" in x:
        return effects.auc_from_interval(x["auc"], x["auc_low"], x["auc_high"])
    return effects.auc_from_counts(x["auc"], cases=x["cases"], controls=x["controls"])
