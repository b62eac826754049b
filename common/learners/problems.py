"""Several problems a round of one hospital's patients: which classes, against which, from how many.

Meta-training over three hospitals has three tasks; a hospital's labels make more: some of its
classes, a class against the rest, two classes, or by how many right angles a picture was turned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from common.cohort.parts import Part
from common.errors import DataError
from common.learners.types import Learner, Patients
from common.metric_spec import TaskSpec
from common.params import Params, weighted_sum
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source

TURNS = 4


def over_problems(plan: Plan, learner: Learner) -> Learner:
    """Return the learner with a round that is the mean over problems of its own adaptation.

    Guarantees
        Which classes a problem is about is drawn from the declared number of classes, not from
        patients. Given the draw, a problem's patients and labels are each patient's own records,
        looked at one by one, so a step on it is the mechanism that it was, on the same patients or
        fewer. A round of T problems is T times the learner's events. Cases a class (`task.shots`)
        are chosen by looking at all patients: such a study has no privacy table (`common.plan`).
    """
    task = plan.study.learner.task
    assert task is not None  # or there is one problem

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        found = [
            learner.adapt(model, theta, one, source)
            for one in problems(plan, task, patients, source)
        ]
        return weighted_sum([(1 / len(found), delta) for delta in found])

    return replace(learner, adapt=adapt)


def problems(plan: Plan, task: TaskSpec, patients: Patients, source: Source) -> Iterator[Patients]:
    """Yield a round's problems, drawn anew."""
    for _ in range(task.per_round):
        yield problem(plan, task, patients, source)


def problem(plan: Plan, task: TaskSpec, patients: Patients, source: Source) -> Patients:
    """Draw one problem; its classes are numbered anew from 0.

    Raises:
        DataError: no two classes have `shots` cases, and queries where there are any.
    """
    part, known = patients.train, patients.classes or len(plan.study.cohort.label.classes)
    if task.kind == "rotations":
        return Patients(turned(part, source), patients.declared, TURNS)
    if task.shots is not None:
        return _episode(plan, task, part, known, source)
    if task.kind == "one_against_rest":
        chosen = int(source.uniform(1)[0] * known)
        return patients._replace(train=replace(part, y=(part.y == chosen).long()), classes=2)
    chosen_classes = _permuted(known, source)[: _ways(task)]
    return patients._replace(train=of_classes(part, chosen_classes), classes=len(chosen_classes))


def turned(part: Part, source: Source) -> Part:
    """Return the pictures each turned by a random number of right angles, which is its class."""
    turns = torch.from_numpy(source.uniform(len(part.y)) * TURNS).long()
    x = torch.empty_like(part.x)
    for number in range(TURNS):
        x[turns == number] = torch.rot90(part.x[turns == number], number, dims=(2, 3))
    return replace(part, x=x, y=turns)


def of_classes(part: Part, classes: Tensor) -> Part:
    """Return the records of those classes, (ways,), numbered by their place among them."""
    kept = part.select(torch.nonzero(torch.isin(part.y, classes)).reshape(-1))
    number = torch.full((int(classes.max()) + 1,), -1)
    number[classes] = torch.arange(len(classes))
    return replace(kept, y=number[kept.y])


def _ways(task: TaskSpec) -> int:
    return 2 if task.ways is None else task.ways


def _permuted(n: int, source: Source) -> Tensor:
    return torch.argsort(torch.from_numpy(source.uniform(n)))


def _episode(plan: Plan, task: TaskSpec, part: Part, known: int, source: Source) -> Patients:
    """Return `shots` cases a class, and queries where the learner has some.

    Each is a record. Draws tell them apart as `common.learners.tasks` parts patients: a query has
    0, a shot 1. The declared size makes the divisor of a step the number of its shots.
    """
    assert task.shots is not None
    rules = plan.study
    asks = rules.learner.metric is not None or rules.learner.meta is not None
    queries = task.queries if asks else 0
    order = _permuted(len(part.y), source)
    one_against_rest = task.kind == "one_against_rest"
    y = part.y
    if one_against_rest:
        y, known = (y == int(source.uniform(1)[0] * known)).long(), 2
    enough = torch.bincount(y, minlength=known) >= task.shots + queries
    able = torch.nonzero(enough).reshape(-1)
    if len(able) < 2:
        raise DataError(
            f"learner.task takes {task.shots} shots and {queries} queries a class, and "
            f"{len(able)} of {known} classes have as many cases",
            remedy="lower task.shots or task.queries, or leave the hospital out",
        )
    chosen = able if one_against_rest else able[_permuted(len(able), source)][: _ways(task)]
    rows = [order[y[order] == c][: task.shots + queries] for c in chosen]
    taken = torch.cat(rows)
    place = torch.arange(task.shots + queries).repeat(len(rows))
    is_shot = (place < task.shots).double()
    found = Part(
        part.x[taken],
        torch.arange(len(rows)).repeat_interleave(task.shots + queries),
        torch.arange(len(taken)),
        len(taken),
        torch.stack([is_shot, torch.zeros_like(is_shot)], dim=1),
    )
    divisor = max(1, round(len(taken) / rules.cohort.train_fraction))
    return Patients(found, divisor, len(rows))
