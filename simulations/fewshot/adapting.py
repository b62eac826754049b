"""A new hospital goes on from the shared weights as the hospitals that trained them did.

Nothing computed here may leave the hospital: the weights have read its cases without noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from common.cohort.parts import Part
from common.learners import learner_for
from common.learners.adaptation import adapt_locally
from common.learners.inner import stepper
from common.learners.references import exact
from common.models import build, initial_params, load_params, objective_of, predict
from common.params import Params
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.schema import Count, Positive, Table
from common.study import AdaptationSpec
from common.transfer.cases import Cases, Method

_STEPS = 50  # Reptile's at a new task (Nichol et al. 2018, table 4), where a round has 5


class InnerSteps(Table):
    """The steps of a new hospital.

    Attributes:
        steps: How many; 50, or 0 in a learned space, where it is left out.
        learning_rate: The learner's own where it is left out.
        batch: Cases a step; all of them where it is left out.
    """

    steps: Annotated[int, Field(ge=0, strict=True)] | None = None
    learning_rate: Positive | None = None
    batch: Count | None = None


def learners_own(plan: Plan, theta: Params, how: InnerSteps) -> Method:
    """Return what the arm's learner itself does with a hospital's cases, without noise.

    Its inner steps move all weights that are trained; the first outputs are the hospital's classes.
    Where heads stay at their hospitals the new one starts from an initial head. A learned space has
    references of the classes in place of a head, made of the cases before and after the steps.

    Args:
        plan: Of the arm: its optimiser and rate.
        theta: The shared weights.
        how: How far.
    """
    spec, start = plan.study.learner, dict(theta)
    usual = 0 if spec.metric else _STEPS
    count = usual if how.steps is None else how.steps
    if how.learning_rate is not None:
        spec = spec.model_copy(update={"learning_rate": how.learning_rate})
    own = learner_for(plan).stays(start)
    start |= {k: v for k, v in initial_params(plan.study, seed=0).items() if k in own}
    model = build(plan.study)
    moving = PrivateModel(build(plan.study))  # it shares its weights' memory: not to be written to

    def learn(cases: Cases, x: Tensor, seed: int) -> Tensor:
        move, phi = stepper(spec), _with_references(start, cases)
        for now in _batches(cases, how.batch, count, seed=seed):
            phi = move(phi, moving.gradient_of(phi, _loss(cases, now)), 1.0)
        load_params(model, _with_references(phi, cases))
        return _of_ways(predict(model, x), cases.ways)

    def _with_references(phi: Params, cases: Cases) -> Params:
        if spec.metric is None:
            return phi
        return {**phi, **exact(model, phi, _part(cases))}

    return learn


def _loss(cases: Cases, now: Tensor) -> Callable[[nn.Module], Tensor]:
    def value(net: nn.Module) -> Tensor:
        outputs = net(cases.x[now])[:, : cases.ways]
        return objective_of(net).losses(outputs, cases.y[now]).mean()

    return value


def _batches(cases: Cases, batch: int | None, steps: int, *, seed: int) -> Iterator[Tensor]:
    """Yield the cases of each step, each in turn before any comes again."""
    generator, total = torch.Generator().manual_seed(seed), len(cases.y)
    size = total if batch is None else min(batch, total)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(total, generator=generator)
        yield order[:size]
        order = order[size:]


def with_prior(plan: Plan, theta: Params, spec: AdaptationSpec) -> Method:
    """Return local adaptation around the shared weights (`adapt_locally`)."""
    model = build(plan.study)

    def learn(cases: Cases, x: Tensor, seed: int) -> Tensor:
        load_params(model, adapt_locally(model, theta, _part(cases), spec))
        return _of_ways(predict(model, x), cases.ways)

    return learn


def _part(cases: Cases) -> Part:
    """Return the cases as patients of one record each, parted among a class's references."""
    count = len(cases.y)
    draws = torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Part(cases.x, cases.y, torch.arange(count), count, draws)


def _of_ways(probabilities: Tensor, ways: int) -> Tensor:
    """Return the probabilities of the episode's classes alone, which sum to 1."""
    kept = probabilities[:, :ways]
    return kept / kept.sum(dim=1, keepdim=True)
