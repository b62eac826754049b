"""Exact copies among a cohort's records, and whom they tie together.

A copy on both sides of a split lets evaluation see what learning saw. The keyed split must not look
at other patients, so it leaves copies where they fall and only counts them. The research split
looks at everybody anyway, and keeps them on one side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Groups = list[list[int]]


def duplicates(contents: Iterable[bytes]) -> Groups:
    """Return the groups of records with the same bytes, each of two or more.

    >>> duplicates([b"x", b"y", b"x", b"z", b"z", b"x"])
    [[0, 2, 5], [3, 4]]
    """
    places: dict[bytes, list[int]] = defaultdict(list)
    for record, content in enumerate(contents):
        places[content].append(record)
    return [group for group in places.values() if len(group) > 1]


def units(patient: NDArray[np.intp], groups: Groups, *, patients: int) -> NDArray[np.intp]:
    """Return each patient's splitting unit: patients who share a copy, however far, are in one.

    Args:
        patient: Index of each record's patient, (records,).
        groups: Records that are copies of one another.
        patients: How many patients there are.

    Returns:
        Index of each patient's unit, (patients,), from 0 without gaps.

    >>> units(np.array([0, 1, 2, 2, 3]), [[0, 2], [3, 4]], patients=4).tolist()
    [0, 1, 0, 0]
    """
    ties = [(patient[group[0]], patient[other]) for group in groups for other in group[1:]]
    rows, columns = np.array(ties, dtype=np.intp).reshape(-1, 2).T
    graph = coo_array((np.ones(len(ties)), (rows, columns)), shape=(patients, patients))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)


def describe(groups: Groups, trains: Sequence[bool] | NDArray[np.bool_]) -> list[str]:
    """Return a note on the copies, if there are any, and how many groups straddle the split.

    Args:
        groups: Records that are copies of one another.
        trains: Whether each record trains, (records,).

    >>> describe([[0, 2], [1, 3]], [True, True, False, True])
    ['copies: 4 exact ones in 2 groups; 1 of them straddles train and holdout']
    """
    if not groups:
        return []
    records, some = sum(map(len, groups)), "group" if len(groups) == 1 else "groups"
    across = sum(len({bool(trains[record]) for record in group}) == 2 for group in groups)
    return [
        f"copies: {records} exact ones in {len(groups)} {some}; "
        f"{across} of them {'straddles' if across == 1 else 'straddle'} train and holdout"
    ]
