"""Who trains and who evaluates: a keyed hash of the patient's id, for a site's whole life.

Guarantees
    A patient's part depends on the patient's own id and the site's secret key alone. One patient
    more or less changes one part and leaves the other as it was, so what is released about the two
    parts composes in parallel. One key and one fraction hold for a site's whole life: a patient who
    once evaluated must never train, or the two prices would add up.

    Two splits exist for comparing with published tables. The stratified one looks at everybody's
    outcome, so one patient more can move others from part to part; one that the file gives was made
    by others, who may have looked at everybody too. Epsilon then holds only given the split.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

SplitKind = Literal["keyed", "stratified", "given"]

PART = "part"
"""The column of a file that gives its own split: 'train', or 'test' for those who evaluate."""

SPLIT_LABELS: dict[str, str] = {
    "keyed": "keyed hash of the patient id",
    "stratified": "stratified (research split: epsilon holds only given the split)",
    "given": "given by the file, as published (research split: epsilon holds only given the split)",
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


def given_split(
    patients: Sequence[str], units: Sequence[int], parts: Sequence[str]
) -> NDArray[np.bool_]:
    """Return whether each patient trains as the file says, (patients,).

    Args:
        patients: Ids, one a patient.
        units: Each record's patient, as an index into `patients`.
        parts: What the file says of each record.

    Raises:
        DataError: a record's part is neither 'train' nor 'test', or not that of its patient's
            other records.

    >>> given_split(["a", "b"], [0, 1, 1], ["train", "test", "test"]).tolist()
    [True, False]
    """
    found: dict[int, str] = {}
    for record, (patient, part) in enumerate(zip(units, parts, strict=True), start=1):
        if part not in ("train", "test"):
            raise DataError(
                f"record {record} has {part!r} in column {PART!r}, which is neither train nor test",
                remedy="mend the record, or split by 'keyed'",
            )
        if found.setdefault(patient, part) != part:
            raise DataError(
                f"patient {str(patients[patient])!r} has records of both parts in column {PART!r}",
                remedy="give all records of a patient the same part, or split by 'keyed'",
            )
    return np.array([found[patient] == "train" for patient in range(len(patients))], dtype=np.bool_)
