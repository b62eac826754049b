"""What a ranking saves those who screen: figures of a search for the few that are relevant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def work_saved(
    scores: NDArray[np.float64], relevant: NDArray[np.bool_], *, recall: float = 0.95
) -> float | None:
    """Return work saved over sampling at a recall (WSS; Cohen et al. 2006, JAMIA 13).

    WSS = (TN + FN) / N - (1 - recall): the share that nobody has to read, less that which reading
    as many at random would have left out for the same recall. The threshold is the highest score at
    which the recall is reached; all of that score are read. With few relevant more than `recall` of
    them are then found, which is not credited.

    Args:
        scores: (records,) higher means more likely relevant; not NaN.
        relevant: (records,) whether it is.
        recall: Share of the relevant to be found, above 0 and at most 1.

    Returns:
        At most `recall`, about 0 for a random order; None where nothing is relevant.

    Raises:
        ValueError: shapes disagree, or `recall` is out of range.

    >>> work_saved(np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, False, False, False]))
    0.7
    """
    scores, relevant = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=np.bool_)
    if scores.ndim != 1 or scores.shape != relevant.shape:
        raise ValueError(f"scores {scores.shape} and relevant {relevant.shape}: give (records,)")
    if not 0 < recall <= 1:
        raise ValueError(f"recall is {recall:g}: give a share above 0 and at most 1")
    if not relevant.any():
        return None
    found = np.sort(scores[relevant])[::-1]
    # A sum of floats must not ask for one more: .95 of 20 is 19, and not 19 and a little.
    needed = int(np.ceil(recall * len(found) - 1e-9))
    unread = int((scores < found[needed - 1]).sum())
    return round(unread / len(scores) - (1 - recall), 12)
