"""The game behind the bounds from one run: which canaries were in?

Each of m canaries goes into the data with probability 1/2, independently. The auditor sees what
was released, guesses "in" for the canaries with the highest scores and "out" for those with the
lowest, and abstains from the rest. How many guesses there are is fixed beforehand: to try several
numbers of guesses and keep the best is to run several tests, and each takes its share of the level.
"""

from __future__ import annotations

import math

import numpy as np

from common.metrics import Array, Bools


def log_likelihood_ratio(x: Array, *, sigma: float, rate: float) -> Array:
    """Return, for each canary, the log of how much likelier its trace is with it in than out.

    A canary that is in enters a step's batch with probability q; its own coordinate of the noisy
    sum, in units of the clip C, is then N(1, sigma^2), else N(0, sigma^2). Over independent steps

        LLR = sum_t ln(1 - q + q exp((2 x_t - 1) / (2 sigma^2))),

    by Neyman and Pearson the best score there is against this mechanism.

    Args:
        x: (steps, canaries) each canary's coordinate, in units of C.
        sigma: Noise multiplier claimed, above 0.
        rate: q, the sampling rate claimed, in (0, 1].

    Returns:
        (canaries,) in nats.

    >>> log_likelihood_ratio(np.array([[0.5, 1.0]]), sigma=1.0, rate=1.0)
    array([0. , 0.5])
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma is {sigma}; use a finite number above 0")
    if not 0 < rate <= 1:
        raise ValueError(f"rate is {rate}; use a number above 0 and at most 1")
    gain = (2 * np.asarray(x, dtype=np.float64) - 1) / (2 * sigma**2)
    absent = math.log1p(-rate) if rate < 1 else -math.inf
    total: Array = np.logaddexp(absent, math.log(rate) + gain).sum(axis=0)
    return total


def correct_guesses(scores: Array, included: Bools, *, as_in: int, as_out: int) -> int:
    """Return how many guesses are right: the highest scores are "in", the lowest "out".

    Equal scores are taken in the order of the canaries, which knows nothing of who was in.

    Args:
        scores: (canaries,) higher means more likely in.
        included: (canaries,) who was.
        as_in: How many to call "in".
        as_out: How many to call "out"; together at most the canaries.

    Raises:
        ValueError: shapes disagree, too many guesses, or a score that is not a number: an engine
            that released one has failed already, and a rank for it would be made up.

    >>> correct_guesses(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, True, False]),
    ...                 as_in=1, as_out=1)
    2
    """
    scores, included = np.asarray(scores, dtype=np.float64), np.asarray(included, dtype=np.bool_)
    if scores.ndim != 1 or scores.shape != included.shape:
        raise ValueError(f"scores {scores.shape}, included {included.shape}: give (canaries,) both")
    if as_in < 0 or as_out < 0 or as_in + as_out > len(scores):
        raise ValueError(f"{as_in} + {as_out} guesses of {len(scores)} canaries; guess each once")
    if np.isnan(scores).any():
        raise ValueError(f"scores has {int(np.isnan(scores).sum())} that are not a number")
    order = np.argsort(scores, kind="stable")
    highest, lowest = order[len(order) - as_in :], order[:as_out]
    return int(included[highest].sum() + (~included[lowest]).sum())


def check_game(*, canaries: int, guesses: int, correct: int, delta: float, p: float) -> None:
    """Refuse counts that no game has, and a delta or level that no probability has.

    Raises:
        ValueError: so it is, with the argument and its value.
    """
    if canaries < 1 or not 0 <= correct <= guesses <= canaries:
        raise ValueError(
            f"canaries {canaries}, guesses {guesses}, correct {correct}: use at least one canary, "
            "at most one guess a canary and no more correct than guesses"
        )
    if not 0 <= delta < 1:
        raise ValueError(f"delta is {delta}; use a number in [0, 1)")
    if not 0 < p < 1:
        raise ValueError(f"p is {p}; use a number between 0 and 1")
