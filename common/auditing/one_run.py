"""A lower bound of epsilon from one run (Steinke, Nasr and Jagielski, NeurIPS 2023).

Guarantees
    Let a mechanism be (epsilon, delta)-private for adding or removing one canary, let each of m
    canaries be in with probability 1/2 independently, and let r guesses be made from what was
    released alone. With delta = 0 each guess, whatever the others say, is right with probability at
    most q = e^epsilon / (1 + e^epsilon), so the number right is stochastically at most
    W ~ Bin(r, q). With delta > 0 it is at most W + F, where F >= 0 is a whole number of mean at
    most 2 m delta (theorem 5.2 of the paper). The worst F, with no more to spend than its mean,
    lies on one value i, where it lifts the W in [v - i, v) to v:

        P[at least v right] <= beta + 2 m delta a,        beta = P[W >= v],
        a = max_{1 <= i <= v} (1/i) P[v - i <= W < v].

    The claim is refuted at level p where the right side is below p. The bound returned is the first
    epsilon that is not refuted: a true (epsilon, delta) exceeds it with probability at least 1 - p
    even where, for large m delta, the right side should not grow steadily with epsilon.

    ============================  ==============================================
    counts                        lower bound
    ============================  ==============================================
    no guess, or none right       0
    at most chance right          0
    delta = 0                     Clopper and Pearson's, logit of q
    all right                     finite: the `ceiling` of that many guesses
    NaN, more right than guesses  ValueError
    ============================  ==============================================
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from scipy.stats import beta, binom

from common.auditing.guessing import check_game
from common.metrics import Array

_GRID = 64  # points at which to look for the first epsilon that is not refuted
_TOLERANCE = 1e-9


def p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return the most likely an (epsilon, delta)-private mechanism makes this many guesses right.

    Args:
        canaries: m, how many were in or out.
        guesses: r, on how many the auditor did not abstain.
        correct: v, how many guesses were right.
        epsilon: Of the claim, at least 0.
        delta: Of the claim, in [0, 1).

    Raises:
        ValueError: counts that no game has, or an argument out of range.

    >>> round(p_value(canaries=10, guesses=10, correct=10, epsilon=0.0, delta=0.0) * 2**10, 6)
    1.0
    """
    check_game(canaries=canaries, guesses=guesses, correct=correct, delta=delta, p=0.5)
    if not epsilon >= 0:
        raise ValueError(f"epsilon is {epsilon}; use a number of at least 0")
    return float(_p_values(np.array([epsilon]), canaries, guesses, correct, delta)[0])


def _p_values(epsilons: Array, m: int, r: int, v: int, delta: float) -> Array:
    """Return the p-value at each epsilon, (points,)."""
    q = expit(np.asarray(epsilons, dtype=np.float64))
    tail = binom.sf(v - 1, r, q)
    if delta > 0 and v > 0:
        shift = np.arange(1, v + 1)
        below = binom.cdf(v - 1, r, q)[:, None] - binom.cdf(v - shift - 1, r, q[:, None])
        tail = tail + 2 * m * delta * (below / shift).max(axis=1)
    capped: Array = np.minimum(tail, 1.0)
    return capped


def lower_bound(*, canaries: int, guesses: int, correct: int, delta: float, p: float) -> float:
    """Return an epsilon that the true one exceeds with confidence 1 - p.

    Args:
        canaries: m, how many were in or out.
        guesses: r, fixed before looking.
        correct: v, how many guesses were right.
        delta: At which epsilon is stated, in [0, 1).
        p: Level of the test, in (0, 1).

    Returns:
        Epsilon of (epsilon, delta)-privacy for adding or removing one canary; 0 if the guesses are
        no better than an epsilon of 0 allows.

    Raises:
        ValueError: counts that no game has, or an argument out of range.

    >>> round(lower_bound(canaries=1000, guesses=1000, correct=1000, delta=1e-5, p=.05), 2)
    5.78
    """
    check_game(canaries=canaries, guesses=guesses, correct=correct, delta=delta, p=p)
    if correct == 0:
        return 0.0
    # Without delta the p-value is P[Bin(r, q) >= v]: this q solves it, and delta only adds to it.
    top = float(logit(beta.ppf(p, correct, guesses - correct + 1)))
    if top <= 0 or delta == 0:
        return max(top, 0.0)
    grid = np.linspace(0.0, top, _GRID)
    stands = _p_values(grid, canaries, guesses, correct, delta) >= p
    if stands[0]:
        return 0.0
    first = int(np.argmax(stands)) if stands.any() else _GRID - 1
    low, high = float(grid[first - 1]), float(grid[first])
    while high - low > _TOLERANCE * max(1.0, high):
        middle = (low + high) / 2
        refuted = _p_values(np.array([middle]), canaries, guesses, correct, delta)[0] < p
        low, high = (middle, high) if refuted else (low, middle)
    return low


def ceiling(*, canaries: int, delta: float, p: float, guesses: int | None = None) -> float:
    """Return the largest epsilon the test can show: every guess right. A claim above it stands.

    Args:
        canaries: m.
        delta: As in `lower_bound`.
        p: As in `lower_bound`.
        guesses: r; all canaries by default.

    >>> [round(ceiling(canaries=m, delta=1e-5, p=.05), 1) for m in (100, 1000, 10_000)]
    [3.5, 5.8, 7.8]
    """
    guesses = canaries if guesses is None else guesses
    return lower_bound(canaries=canaries, guesses=guesses, correct=guesses, delta=delta, p=p)
