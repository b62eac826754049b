"""What each learner's round does to a hospital's training patients, as events.

The learners derive these prices where they are implemented (`common.learners`); here they are data,
so that a plan can fix its noise before any patient is read. A learner that is not in the table has
no private form and cannot be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from common.learner_spec import LearnerSpec
from common.privacy.events import Event, Part, PoissonGaussian, gaussian

Price = Callable[..., tuple[Event, ...]]


def training_events(
    learner: LearnerSpec, *, sigma: float, query_sigma: float, rounds: int
) -> tuple[Event, ...]:
    """Return what the weight deltas of `rounds` rounds do to a hospital's training patients.

    Args:
        learner: The study's learner.
        sigma: Noise multiplier of each inner step; 0 where nothing is protected.
        query_sigma: Noise multiplier of the query gradient, of learners that have one.
        rounds: How many rounds.
    """
    tasks = rounds * learner.tasks
    prices = _PRICES[learner.name](learner, sigma=sigma, query_sigma=query_sigma, rounds=tasks)
    return prices if learner.metric is None else (*_references(learner, sigma, tasks), *prices)


def _references(learner: LearnerSpec, sigma: float, tasks: int) -> tuple[Event, ...]:
    """One sampled Gaussian a task for the classes' references (`common.learners.references`)."""
    part = _parts(learner)[0] if learner.has_query else "train"
    return (_sampled(learner, sigma, tasks, part),)


def _steps(learner: LearnerSpec, *, sigma: float, rounds: int, **_: float) -> tuple[Event, ...]:
    """K sampled Gaussians a round (`common.learners.inner`)."""
    return (_sampled(learner, sigma, learner.local_steps * rounds, "train"),)


def _moments_and_steps(
    learner: LearnerSpec, *, sigma: float, rounds: int, **_: float
) -> tuple[Event, ...]:
    """A Gaussian on everybody's moments and K sampled ones a round (`common.learners.aligned`)."""
    moments = gaussian(sigma=sigma / learner.sampling_rate, count=rounds, part="train")
    return (moments, *_steps(learner, sigma=sigma, rounds=rounds))


def _head_and_body(
    learner: LearnerSpec, *, sigma: float, rounds: int, **_: float
) -> tuple[Event, ...]:
    """H + K sampled Gaussians a round: the head's steps cost what the body's do (`fedrep`)."""
    assert learner.head_steps is not None  # LearnerSpec fills it in
    steps = learner.head_steps + learner.local_steps
    return (_sampled(learner, sigma, steps * rounds, "train"),)


def _first_order(
    learner: LearnerSpec, *, sigma: float, query_sigma: float, rounds: int
) -> tuple[Event, ...]:
    """K sampled Gaussians and one for the query a round (`fomaml`, `anil`, `metanet`)."""
    support, query = _parts(learner)
    return (
        _sampled(learner, sigma, learner.local_steps * rounds, support),
        _sampled(learner, query_sigma, rounds, query),
    )


def _second_order(
    learner: LearnerSpec, *, sigma: float, query_sigma: float, rounds: int
) -> tuple[Event, ...]:
    """Two Gaussians on each inner step's one sample, and the query (`common.learners.maml`).

    By episode: one Gaussian a round on all episodes, of which an exchange changes one.
    """
    assert learner.meta is not None  # LearnerSpec fills it in
    if learner.meta.unit == "episode":
        if sigma == 0:
            return (gaussian(sigma=0.0, count=rounds, part="train"),)
        return (PoissonGaussian(sigma, 1.0, rounds, "train", "replace"),)
    support, query = _parts(learner)
    return (
        _sampled(learner, twice_on_one_sample(sigma), learner.local_steps * rounds, support),
        _sampled(learner, query_sigma, rounds, query),
    )


def twice_on_one_sample(sigma: float) -> float:
    """Return the noise multiplier of one Gaussian that is worth two of `sigma` on one sample.

    (1 / sigma^2 + 1 / sigma^2)^(-1/2): Dong, Roth and Su 2022, corollary 3.3.

    >>> round(twice_on_one_sample(2.0), 6)
    1.414214
    """
    return sigma / math.sqrt(2)


def _sampled(learner: LearnerSpec, sigma: float, count: int, part: Part) -> Event:
    return gaussian(sigma=sigma, sampling_rate=learner.sampling_rate, count=count, part=part)


def _parts(learner: LearnerSpec) -> tuple[Part, Part]:
    """Return whom the inner steps and the query read."""
    assert learner.meta is not None
    return ("support", "query") if learner.meta.pool == "parted" else ("train", "train")


_PRICES: dict[str, Price] = {
    "reptile": _steps,
    "fedavg": _steps,
    "fedprox": _steps,
    "fomaml": _first_order,
    "maml": _second_order,
    "fedrep": _head_and_body,
    "anil": _first_order,
    "hypernetwork": _steps,
    "metanet": _first_order,
    "prototypical": _steps,
    "matching": _steps,
    "siamese": _steps,
    "triplet": _steps,
    "aligned": _moments_and_steps,
}
