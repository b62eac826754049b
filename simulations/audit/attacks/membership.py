"""Membership inference by LiRA: was this patient trained on?

Carlini et al., "Membership inference attacks from first principles" (S&P 2022), online form. The
attacker trains shadow runs of the study, each with a random half of every hospital's patients, and
so knows for each patient how a score is distributed with and without the patient; the run under
attack, dealt by coins of its own, is judged by the ratio of the two normal likelihoods. Two scores:

- *deltas*, what the coordinator sees: how far the patient's loss falls along the hospital's deltas,
  -sum_r <grad L(x; theta_r), delta_r> (Nasr et al. 2019);
- *model*, what anybody with the final model sees: log p_y / (1 - p_y).

The public divisor does not follow the halves, so a patient weighs in a step what it weighs in the
study, against the same noise. With few shadows a variance is its own patient's shrunk to all
patients' (Carlini et al. fix one for all).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from common.cohort.parts import Cohort, Part, join
from common.errors import DataError
from common.learners import learner_for
from common.learners.types import Contribution, Patients
from common.metrics import Array
from common.models import build, load_params, predict
from common.params import Params
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.seeds import derive

SCORES = ("deltas", "model")

_FEWEST = 40  # patients; with fewer neither side has twenty
_WEIGHT = 4.0  # of all patients' variance, in shadows
_EDGE = 1e-7  # of a probability

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """The attack on one run: log likelihood ratios, higher is more likely a member, by score."""

    ratios: Mapping[str, Array]
    member: Bools


def infer(
    plan: Plan, theta: Params, cohorts: Mapping[str, Cohort], *, shadows: int, seed: int
) -> Judged:
    """Attack one run of the plan with shadow runs of it.

    Args:
        plan: The study's, private or not.
        theta: The shared weights that every run starts from.
        cohorts: Every hospital's patients, of both parts.
        shadows: How many runs the attacker trains; even, at least 4.
        seed: Of the deal, the sampling and the noise.

    Raises:
        DataError: too few patients to say anything.
    """
    pools = {name: join([c.train, c.holdout]) for name, c in cohorts.items()}
    total = sum(pool.patients for pool in pools.values())
    if total < _FEWEST:
        raise DataError(
            f"the study's hospitals have {total} patients: too few for a membership test",
            remedy=f"attack a study of at least {_FEWEST}; nothing can be said of this one",
        )
    if shadows < 4 or shadows % 2:
        raise ValueError(f"shadows is {shadows}; use an even number of at least 4")
    deal = _deal(total, shadows, seed)
    declared = {name: c.declared for name, c in cohorts.items()}
    runs = [
        _run(plan, theta, pools, declared, member, derive(seed, "membership", number))
        for number, member in enumerate(deal)
    ]
    ratios = {
        name: likelihood_ratio(runs[0][name], np.stack([r[name] for r in runs[1:]]), deal[1:])
        for name in SCORES
    }
    return Judged(ratios, deal[0])


def likelihood_ratio(score: Array, shadow: Array, member: Bools) -> Array:
    """Return log N(score; in) - log N(score; out), (patients,).

    Args:
        score: (patients,) of the run under attack.
        shadow: (shadows, patients).
        member: Who was in which shadow, (shadows, patients); everybody in some and out of some.
    """
    inside = np.nanmean(np.where(member, shadow, np.nan), axis=0)
    outside = np.nanmean(np.where(member, np.nan, shadow), axis=0)
    square = (shadow - np.where(member, inside, outside)) ** 2
    freedom = len(shadow) - 2
    everybody = float(square.sum()) / (freedom * shadow.shape[1])
    variance = (square.sum(axis=0) + _WEIGHT * everybody) / (freedom + _WEIGHT)
    variance = np.maximum(variance, np.finfo(np.float64).tiny)
    ratio: Array = ((score - outside) ** 2 - (score - inside) ** 2) / (2 * variance)
    return ratio


def _deal(patients: int, shadows: int, seed: int) -> Bools:
    """Return who is in which run, (1 + shadows, patients): by coins, then half of the shadows."""
    rng = np.random.default_rng(derive(seed, "deal"))
    half = np.arange(shadows) < shadows // 2
    dealt = rng.permuted(np.tile(half, (patients, 1)), axis=1).T
    return np.concatenate([rng.random((1, patients)) < 0.5, dealt])


def _run(
    plan: Plan,
    theta: Params,
    pools: Mapping[str, Part],
    declared: Mapping[str, int],
    member: Bools,
    seed: int,
) -> dict[str, Array]:
    """Train the study on the members, and return every patient's scores."""
    learner, model = learner_for(plan), build(plan.study)
    engine = PrivateModel(build(plan.study))
    ends = np.cumsum([pool.patients for pool in pools.values()])[:-1]
    chosen = dict(zip(pools, np.split(member, ends), strict=True))
    train = {n: pool.of_patients(torch.from_numpy(chosen[n])) for n, pool in pools.items()}
    source, state = SeededSource(seed), learner.init(theta)
    along = {name: np.zeros(pool.patients) for name, pool in pools.items()}
    kept: dict[str, Params] = {name: {} for name in pools}  # heads, which no coordinator sees
    for _ in range(plan.study.rounds.count):
        contributions = []
        for name, pool in pools.items():
            patients = Patients(train[name], declared[name])
            sent = learner.start(state, name)
            start = {**sent, **kept[name]}
            whole = learner.adapt(engine, start, patients, source)
            delta = learner.shared(whole)
            kept[name] = {k: start[k] + v for k, v in whole.items() if k not in delta}
            along[name] += _by_patient(-_slope(model, sent, delta, pool), pool)
            contributions.append(Contribution(declared[name], delta, name))
        state = learner.apply(state, contributions)
    final = []
    for name, pool in pools.items():
        load_params(model, learner.result(state, name))
        final.append(_by_patient(_confidence(model, pool), pool))
    return {"deltas": np.concatenate(list(along.values())), "model": np.concatenate(final)}


def _slope(model: nn.Module, params: Params, direction: Params, part: Part) -> Tensor:
    """Return <grad L(x), direction> of every record, (records,), without a gradient for each.

    Backwards twice: <sum_i u_i grad L_i, direction> is linear in u.
    """
    names = dict(model.named_parameters())  # a learner may train more, beside the model
    weights = {name: params[name].clone().requires_grad_() for name in names}
    logits = functional_call(model, weights, (part.x,))
    losses = F.cross_entropy(logits, part.y, reduction="none")
    u = torch.zeros_like(losses, requires_grad=True)
    there = [name for name in direction if name in names]  # what is frozen is in no delta
    moved = [weights[name] for name in there]
    gradients = torch.autograd.grad(losses, moved, u, create_graph=True)
    pairs = zip(gradients, (direction[name] for name in there), strict=True)
    along = torch.stack([(g * d).sum() for g, d in pairs]).sum()
    slopes: Tensor = torch.autograd.grad(along, u)[0]
    return slopes


def _confidence(model: nn.Module, part: Part) -> Tensor:
    """Return log p_y / (1 - p_y) of every record, (records,)."""
    p = predict(model, part.x).gather(1, part.y[:, None]).reshape(-1)
    return torch.logit(p, eps=_EDGE)


def _by_patient(values: Tensor, part: Part) -> Array:
    """Return the mean over each patient's records, (patients,)."""
    total = torch.zeros(part.patients, dtype=torch.float64)
    found: Array = total.index_add_(0, part.patient, values.double() * part.weights).numpy()
    return found
