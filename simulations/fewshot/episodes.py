"""Episodes: some of a new hospital's patients are labelled, others judge what is made of them.

An episode draws classes, labelled patients of each and queries of each, one record a patient, so
that nobody is on both sides (Vinyals et al. 2016, with patients for images). All methods meet the
same episodes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.cohort.parts import Part
from common.errors import DataError, StudyError
from common.few_shot_spec import FewShot, per_class
from common.metrics import mean_auc
from common.screening import work_saved
from common.seeds import derive
from common.transfer.cases import Cases

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Episode:
    """Records of a hospital, by index; classes are numbered anew from 0 to `ways` - 1.

    Attributes:
        labelled: Those with labels, (cases,).
        y: Their classes, (cases,).
        queries: Those that judge, (queries,).
        truth: Their classes, (queries,).
    """

    seed: int
    ways: int
    labelled: Tensor
    y: Tensor
    queries: Tensor
    truth: Ints

    def cases(self, space: Tensor) -> Cases:
        """Return the labelled cases as rows of `space`, (records of the hospital, ...)."""
        return Cases(space[self.labelled], self.y, self.ways)


@dataclass(frozen=True)
class Judged:
    """What one method made of one episode.

    Attributes:
        accuracy: Share of the queries whose likeliest class is right.
        recall: Mean over classes of the share of its queries that are found.
        auc: Of two classes: area under the ROC curve.
        wss95: Of two classes: work saved over sampling at 95% recall of the second.
    """

    accuracy: float
    recall: float
    auc: float | None = None
    wss95: float | None = None


def ways_of(rules: FewShot, classes: int) -> int:
    """Return how many classes an episode of a hospital with so many has."""
    return classes if rules.ways == "all" else rules.ways


def check_hospital(name: str, part: Part, classes: int, rules: FewShot) -> None:
    """Refuse a hospital of which no episode can be drawn.

    A patient whose records are of several classes can be drawn as either, so it is not counted.

    Raises:
        DataError: all its patients are of one class.
        StudyError: it has too few classes, or a class too few patients.
    """
    counts = [len(own) for own in _own_patients(part, classes)]
    present = [number for number in counts if number]
    if len(present) < 2:
        raise DataError(
            f"hospital {name!r} has patients of {len(present)} class: there is nothing to tell "
            "apart",
            remedy="take it out of simulation.fewshot.held_out, or give it patients of others",
        )
    if rules.ways != "all" and rules.ways > classes:
        raise StudyError(
            f"--ways (simulation.fewshot.ways) is {rules.ways}, and hospital {name!r} has "
            f"{classes} classes",
            remedy=f"give {classes} at most, or 'all'",
        )
    for shots in rules.shots:
        _check_shots(name, counts, shots, ways_of(rules, classes))


def _check_shots(name: str, counts: list[int], shots: int | str, ways: int) -> None:
    numbers = per_class(shots)
    if len(numbers) > 1 and (ways, len(counts)) != (2, 2):
        raise StudyError(
            f"--shots (simulation.fewshot.shots) has {shots!r}, and hospital {name!r} is asked "
            f"about {ways} of {len(counts)} classes",
            remedy="give one number for all classes; 'P/N' is for hospitals of two",
        )
    for number, needed in enumerate(numbers * (len(counts) // len(numbers))):
        if counts[number] < needed + 1:
            raise StudyError(
                f"--shots (simulation.fewshot.shots) is {shots}, and class {number + 1} of "
                f"hospital {name!r} has {counts[number]} patients: it takes {needed} to learn "
                "from and one to judge",
                remedy=f"give at most {max(min(counts) - 1, 0)}, or leave this hospital out of "
                "simulation.fewshot.held_out",
            )


def _own_patients(part: Part, classes: int) -> list[Ints]:
    """Return the patients of each class all of whose records are of it."""
    y, patient = part.y.numpy(), part.patient.numpy()
    low = np.full(part.patients, classes)
    high = np.full(part.patients, -1)
    np.minimum.at(low, patient, y)
    np.maximum.at(high, patient, y)
    return [np.flatnonzero((low == c) & (high == c)) for c in range(classes)]


def episodes_of(
    part: Part, classes: int, rules: FewShot, shots: int | str, *, seed: int
) -> Iterator[Episode]:
    """Yield the episodes of a hospital for one number of labelled patients.

    Args:
        part: All its patients.
        classes: How many classes it has.
        rules: Ways, episodes, queries.
        shots: Labelled patients a class.
        seed: Of the hospital. An episode does not depend on how many are drawn before it.
    """
    ways, numbers = ways_of(rules, classes), per_class(shots)
    for number in range(rules.episodes):
        own = derive(seed, str(shots), number)
        rng = np.random.default_rng(own)
        chosen = np.arange(classes) if ways == classes else rng.permutation(classes)[:ways]
        yield _drawn(part, chosen, numbers * (ways // len(numbers)), rules, rng, seed=own)


def _drawn(
    part: Part,
    chosen: Ints,
    shots: tuple[int, ...],
    rules: FewShot,
    rng: np.random.Generator,
    *,
    seed: int,
) -> Episode:
    """Draw one record of each patient of the chosen classes, and part them class by class."""
    y, patient = part.y.numpy(), part.patient.numpy()
    records = rng.permutation(np.flatnonzero(np.isin(y, chosen)))
    _, first = np.unique(patient[records], return_index=True)
    records = records[np.sort(first)]
    most = None if rules.queries == "all" else rules.queries
    labelled, queries = [], []
    for k, c in zip(shots, chosen, strict=True):
        own = records[y[records] == c]
        labelled.append(own[:k])
        queries.append(own[k : None if most is None else k + most])
    return Episode(
        seed=seed,
        ways=len(chosen),
        labelled=torch.from_numpy(np.concatenate(labelled)),
        y=torch.from_numpy(_numbered(labelled)),
        queries=torch.from_numpy(np.concatenate(queries)),
        truth=_numbered(queries),
    )


def _numbered(groups: list[Ints]) -> Ints:
    return np.repeat(np.arange(len(groups)), [len(group) for group in groups])


def judge(probabilities: Tensor, episode: Episode) -> Judged:
    """Return the figures of a method on one episode.

    Args:
        probabilities: Of each class, (queries, ways). A row that is not finite counts as wrong.
        episode: Its truth.
    """
    p = np.nan_to_num(probabilities.numpy(), nan=-1.0)
    truth, right = episode.truth, p.argmax(axis=1) == episode.truth
    right &= np.isfinite(probabilities.numpy()).all(axis=1)
    recall = [float(right[truth == c].mean()) for c in range(episode.ways)]
    auc = wss = None
    if episode.ways == 2:
        auc = mean_auc(np.clip(p, 0, 1), truth, np.ones(len(truth)))
        wss = work_saved(p[:, 1], truth == 1)
    return Judged(float(right.mean()), float(np.mean(recall)), auc, wss)


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over episodes, and half the width of its 95% interval: 1.96 s / sqrt(n).

    The few-shot papers' convention (Finn et al. 2017 and since), s with n - 1 below. One episode
    has a width of 0.

    >>> mean, half = mean_and_half_width([0.4, 0.6])
    >>> round(mean, 3), round(half, 3)
    (0.5, 0.196)
    """
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), 1.96 * spread / len(values) ** 0.5
