"""How large the noise on an answer that stays was: it shows in where the next query is asked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from common.learners.references import as_head
from common.params import Params, flatten, unflatten
from common.privacy.class_sums import count_weight
from simulations.audit.scripted import Answer
from simulations.audit.subject import Bench, Subject

TOLERANCE = 1e-3


def off_scale(
    subject: Subject,
    bench: Bench,
    given: list[Answer],
    answers: list[Answer],
    noise: Sequence[Tensor],
    delta: Params,
) -> int:
    """Return after how many answers that stay at the hospital the noise was of another size."""
    learner, share = subject.plan.study.learner, 0.5
    if answers[0].is_moments:  # steps reach the delta, where their noise is measured
        return _moments_off(subject, bench, given[0], noise[0], delta)
    off = 0
    if learner.metric is not None:
        off = _references_off(subject, given[0], answers[1].at, noise[0])
        given, answers, noise = given[1:], answers[1:], noise[1:]
    if not subject.has_query and learner.head_steps is None:
        return off  # every other sum reaches the delta, where its noise is measured
    if subject.has_query and learner.meta is not None:
        share = learner.meta.query_fraction
    ends = [b.at if a.is_product == b.is_product else None for a, b in pairwise(answers)]
    rate = bench.step * subject.plan.denominator(bench.declared, share=share)
    last = {k: v / -rate for k, v in delta.items()} if answers[-1].is_product else None
    step = bench.step * share / (1 - share)  # of the support
    found = (
        _multiplier(answer, told, end, normals, step)
        for answer, told, end, normals in zip(answers, given, [*ends, last], noise, strict=True)
        if end is not None
    )
    return off + sum(not abs(sigma / subject.plan.sigma - 1) <= TOLERANCE for sigma in found)


def _references_off(subject: Subject, given: Answer, seen: Params, normals: Tensor) -> int:
    """Return 1 if the steps are under other references than with noise of the claimed size."""
    metric = subject.plan.study.learner.metric
    assert metric is not None
    assert metric.radius is not None  # a private plan has one
    noisy = flatten(given.total).double() + subject.plan.sigma * given.clip * normals
    sums = {k: v.float() for k, v in unflatten(noisy, given.total).items()}
    due = as_head(sums, seen, weight=count_weight(metric.radius))
    return int(not all(torch.allclose(seen[k], v, rtol=TOLERANCE) for k, v in due.items()))


def _moments_off(
    subject: Subject, bench: Bench, given: Answer, normals: Tensor, delta: Params
) -> int:
    """Return 1 where the noise on what was said of everybody's features was of another size."""
    count = subject.plan.denominator(bench.declared, share=1 / subject.rate)
    said = torch.cat([delta[f"alignment.{name}"].double().flatten() for name in given.total])
    noise = said * count - flatten(given.total).double()
    sigma = float((noise @ normals) / (normals @ normals)) / given.clip
    return int(not abs(sigma * subject.rate / subject.plan.sigma - 1) <= TOLERANCE)


def _multiplier(answer: Answer, given: Answer, end: Params, normals: Tensor, step: float) -> float:
    """Return the noise multiplier that shows between a query and the next; NaN without a move."""
    moved = flatten({k: end[k].double() - answer.at[k].double() for k in answer.total})
    noise, there = moved / -step - flatten(given.total).double(), moved != 0
    own = normals[there]
    return float((noise[there] @ own) / (own @ own)) / answer.clip
