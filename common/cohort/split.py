"""Who trains and who evaluates: a keyed hash of the patient's id, for a site's whole life.

Guarantees
    A patient's part depends on the patient's own id and the site's secret key alone. One patient
    more or less changes one part and leaves the other as it was, so what is released about the two
    parts composes in parallel. One key and one fraction hold for a site's whole life: a patient who
    once evaluated must never train, or the two prices would add up.

    The stratified split exists for comparing with published tables. It looks at everybody's
    outcome, so one patient more can move others from part to part: epsilon then holds only given
    the split.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SplitKind = Literal["keyed", "stratified"]

SPLIT_LABELS: dict[str, str] = {
    "keyed": "keyed hash of the patient id",
    "stratified": "stratified (research split: epsilon holds only given the split)",
}


def content_ids(contents: Iterable[bytes]) -> list[str]:
    """Return an id for each record of a cohort that names no patients: each record is a patient.

    The id is a hash of the record's raw content, as the site holds it and whatever a study makes of
    it, and counts equal records. So one record more or less leaves everybody else's id as it was,
    which a row's number would not.

    >>> ids = content_ids([b"x", b"y", b"x"])
    >>> ids[0] != ids[2], content_ids([b"y", b"x"])[0] == ids[1]
    (True, True)
    """
    seen: Counter[str] = Counter()
    ids = []
    for content in contents:
        digest = hashlib.sha256(content).hexdigest()
        ids.append(f"{digest}-{seen[digest]}")
        seen[digest] += 1
    return ids


def position(key: bytes, patient: str) -> float:
    """Return where in [0, 1) the keyed hash (HMAC-SHA256) puts a patient.

    >>> 0 <= position(b"key", "17") < 1
    True
    """
    digest = hmac.new(key, patient.encode(), hashlib.sha256).digest()
    return _uniform(digest[:8])


def _uniform(word: bytes) -> float:
    return (int.from_bytes(word, "big") >> 11) * 2.0**-53


def task_draws(patients: Sequence[str], *, key: bytes) -> NDArray[np.float64]:
    """Return two keyed uniforms of each patient, (patients, 2), for parting those who train.

    Like a patient's part, they depend on the patient's own id and the site's key alone, and are
    independent of it: another patient more or less leaves them as they were.
    """
    own = hmac.new(key, b"task draws", hashlib.sha256).digest()  # no id under `key` can meet it
    digests = (hmac.new(own, p.encode(), hashlib.sha256).digest() for p in patients)
    return np.array([[_uniform(d[:8]), _uniform(d[8:16])] for d in digests]).reshape(-1, 2)


def keyed_split(patients: Sequence[str], *, key: bytes, train_fraction: float) -> NDArray[np.bool_]:
    """Return whether each patient trains, (patients,)."""
    return np.array([position(key, p) < train_fraction for p in patients], dtype=np.bool_)


def stratified_split(
    patients: Sequence[str], outcomes: Sequence[int], *, key: bytes, train_fraction: float
) -> NDArray[np.bool_]:
    """Return whether each patient trains, with the same share of each outcome in both parts.

    Args:
        patients: Ids, one a patient.
        outcomes: The outcome of each patient.
        key: Orders the patients within an outcome.
        train_fraction: Share that trains, rounded within each outcome.
    """
    order = sorted(range(len(patients)), key=lambda i: position(key, patients[i]))
    train = np.zeros(len(patients), dtype=np.bool_)
    for outcome in sorted(set(outcomes)):
        group = [i for i in order if outcomes[i] == outcome]
        train[group[: round(train_fraction * len(group))]] = True
    return train
