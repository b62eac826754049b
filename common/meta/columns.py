"""Which columns of a table say what: metafor's names, RevMan's, and those of R's meta."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from common.errors import DataError
from common.meta.effects import MEASURES

# Roles by metafor's names; a column may also be called as RevMan, or R's meta, has it. Case, spaces
# and punctuation do not count: 'Events 1' is 'events1'.
_CALLED = {
    "ai": "ai tpos events1 evente", "bi": "bi tneg nonevents1", "n1i": "n1i total1 ne",
    "ci": "ci cpos events2 eventc", "di": "di cneg nonevents2", "n2i": "n2i total2 nc",
    "m1i": "m1i mean1 meane", "sd1i": "sd1i sd1 sde", "m2i": "m2i mean2 meanc",
    "sd2i": "sd2i sd2 sdc",
    "yi": "yi te estimate effect", "vi": "vi variance", "sei": "sei se sete standarderror",
    "low": "low lower cilow cilb", "high": "high upper cihigh ciub",
    "ratio": "or rr oe ratio oddsratio riskratio",
    "ratio_low": "orlb rrlb oelb orlow rrlow oelow ratiolow",
    "ratio_high": "orub rrub oeub orhigh rrhigh oehigh ratiohigh",
    "auc": "auc cstatistic", "auc_se": "aucse seauc", "auc_low": "auclow auclb",
    "auc_high": "auchigh aucub", "cases": "cases events positives",
    "controls": "controls nonevents negatives",
    "observed": "observed o", "expected": "expected e", "n": "n ni total patients",
}  # fmt: skip
_TWO_BY_TWO = (("ai", "bi", "ci", "di"), ("ai", "n1i", "ci", "n2i"))
_MEANS = (("n1i", "m1i", "sd1i", "n2i", "m2i", "sd2i"),)
_GIVEN = (("yi", "vi"), ("yi", "sei"), ("yi", "low", "high"))
_RATIO = (("ratio", "ratio_low", "ratio_high"),)
_LAYOUTS = {
    **dict.fromkeys(("OR", "RR"), (*_TWO_BY_TWO, *_GIVEN, *_RATIO)),
    "RD": (*_TWO_BY_TWO, *_GIVEN),
    **dict.fromkeys(("SMD", "MD"), (*_MEANS, *_GIVEN)),
    "AUC": (("auc", "auc_se"), ("auc", "auc_low", "auc_high"), ("auc", "cases", "controls"),
            *_GIVEN),
    "OE": (("observed", "expected", "n"), ("observed", "expected"), *_GIVEN, *_RATIO),
    "GEN": _GIVEN,
}  # fmt: skip
# Without --measure: effects as given go first, then what the columns can only mean.
_GUESSES = ("GEN", "OR", "SMD", "AUC", "OE")


def roles(table: pd.DataFrame, given: Mapping[str, str]) -> dict[str, str]:
    """Return the column of every role that the table has one for.

    Args:
        table: its columns' names count.
        given: role to column, before any other name.

    Raises:
        DataError: if `given` names a role or a column that does not exist.

    >>> roles(pd.DataFrame(columns=["Events 1", "x"]), {"ci": "x"})
    {'ai': 'Events 1', 'ci': 'x'}
    """
    for role, column in given.items():
        if role not in _CALLED and role != "study":
            raise DataError(
                f"--columns names {role!r}, which is nothing that is read",
                remedy=f"use {', '.join(_CALLED)} or study",
            )
        if column not in table.columns:
            raise DataError(
                f"the table has no column {column!r}, which --columns gives for {role}",
                remedy=f"it has {', '.join(map(str, table.columns))}",
            )
    plain = {re.sub(r"[^a-z0-9]", "", str(column).lower()): column for column in table.columns}
    found = {
        role: str(plain[name])
        for role, names in _CALLED.items()
        for name in reversed(names.split())
        if name in plain
    }
    return found | dict(given)


def layout(known: Mapping[str, str], measure: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the measure and the first of its layouts that the table has whole.

    Raises:
        DataError: if it has none, or the measure is unknown.

    >>> layout({"yi": "yi", "vi": "vi"}, None)
    ('GEN', ('yi', 'vi'))
    """
    if measure is not None and measure not in MEASURES:
        raise DataError(f"measure is {measure!r}", remedy=f"use one of {', '.join(MEASURES)}")
    for name in (measure,) if measure else _GUESSES:
        for each in _LAYOUTS[name]:
            if all(role in known for role in each):
                return name, each
    wanted = " or ".join(", ".join(each) for each in _LAYOUTS[measure or "GEN"])
    raise DataError(
        f"the table lacks columns for {measure or 'any measure'} "
        f"(of those that are known it has {', '.join(known.values()) or 'none'})",
        remedy=f"name them {wanted}, or say which they are: --columns "
        f"{','.join(role + '=COLUMN' for role in _LAYOUTS[measure or 'GEN'][0])}",
    )
