"""A lower bound of epsilon from one run and a whole trade-off curve (Mahloujifar et al. 2024).

Guarantees
    A mechanism is f-private (Dong, Roth and Su 2022) if no test of "canary in" against "canary out"
    with false-alarm rate a misses with probability below f(a). A set of outcomes of probability R
    on one side then has at least h(R) = f(1 - R) on the other; f of mu-Gaussian privacy (mu-GDP)
    is that of N(0, 1) against N(mu, 1), which makes h(R) = Phi(Phi^-1(R) - mu).

    Of m canaries r are guessed at. Let p_i be the probability that i guesses are right, and, for a
    canary drawn at random, R_c the probability that its guess is right and at least c are, H_c that
    its guess is wrong and at least c are right:

        R_c - R_{c+1} = p_c c / m,    H_c - H_{c+1} = p_c (r - c) / m,    R_0 + H_0 = r / m.

    Had the canary been on the other side, the same release would hold one right guess less; so of
    the outcomes in R_c, those in H_{c-1} are at least the share h:  H_{c-1} >= h(R_c), with h
    convex. Suppose that v or more are right with probability p. Then, least of all,

        R = p v / m,  H = p (r - v) / m;  for i = v - 1, ..., 0:
            H' = max(H, h(R)),   R = min(R + i / (r - i) (H' - H), 1),   H = H'.

    If R + H comes out above r / m, no such mechanism exists, and f is refuted at level p ("Auditing
    f-Differential Privacy in One Run", arXiv 2410.22235). As mu grows h falls, and R + H with it:
    bisection finds the bound of mu, stated as the epsilon at which mu-GDP meets delta,

        delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu).

    What is bounded is mu. The mu-GDP that meets a claim of sampled Gaussians at its delta is the
    leakier of the two at every larger delta and the less leaky below (in every setting tried; tests
    keep two), so that above the claim a bound refutes it through outcomes as likely as delta or
    more, p v / m >= delta. With p v / m below delta it stands on the Gaussian form alone.

    ============================  ============================================
    counts                        lower bound
    ============================  ============================================
    no guess, or none right       0
    at most chance right          0
    delta = 0                     ValueError: a Gaussian has no pure epsilon
    all right                     finite: the `ceiling` of that many guesses
    NaN, more right than guesses  ValueError
    ============================  ============================================
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from common.auditing.guessing import check_game

_TOLERANCE = 1e-9
_MU_MAX = 1e3


def lower_bound(*, canaries: int, guesses: int, correct: int, delta: float, p: float) -> float:
    """Return the epsilon at `delta` of the smallest mu-GDP that is not refuted, confidence 1 - p.

    Args:
        canaries: m, how many were in or out.
        guesses: r, fixed before looking.
        correct: v, how many guesses were right.
        delta: At which epsilon is stated, in (0, 1).
        p: Level of the test, in (0, 1).

    Raises:
        ValueError: counts that no game has, or an argument out of range.

    >>> round(lower_bound(canaries=1000, guesses=1000, correct=800, delta=1e-5, p=.05), 2)
    2.33
    """
    mu = lower_bound_mu(canaries=canaries, guesses=guesses, correct=correct, p=p)
    return epsilon_of_mu(mu, delta=delta)


def lower_bound_mu(*, canaries: int, guesses: int, correct: int, p: float) -> float:
    """Return the smallest mu that is not refuted; arguments as in `lower_bound`."""
    check_game(canaries=canaries, guesses=guesses, correct=correct, delta=0.0, p=p)

    def refuted(mu: float) -> bool:
        return _impossible(
            lambda right: float(ndtr(ndtri(right) - mu)), canaries, guesses, correct, p
        )

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high) and high < _MU_MAX:
        low, high = high, 2 * high
    while high - low > _TOLERANCE * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _impossible(h: Callable[[float], float], m: int, r: int, v: int, p: float) -> bool:
    """Tell whether R + H exceeds r / m: v right with probability p cannot be."""
    right, wrong, most = p * v / m, p * (r - v) / m, r / m
    for i in range(v - 1, -1, -1):
        more = max(wrong, h(right))
        if more == wrong:  # then neither changes any more
            break
        right = min(right + i / (r - i) * (more - wrong), 1.0)
        wrong = more
        if right + wrong > most:  # both only grow
            return True
    return False  # before the first pass they add up to p r / m


def ceiling(*, canaries: int, delta: float, p: float, guesses: int | None = None) -> float:
    """Return the largest epsilon the test can show: every guess right; arguments as elsewhere.

    >>> ceiling(canaries=1000, delta=1e-5, p=.05) > 10
    True
    """
    guesses = canaries if guesses is None else guesses
    return lower_bound(canaries=canaries, guesses=guesses, correct=guesses, delta=delta, p=p)


def epsilon_of_mu(mu: float, *, delta: float) -> float:
    """Return the epsilon at which mu-GDP meets delta (Dong, Roth and Su 2022, corollary 2.13).

    Args:
        mu: At least 0.
        delta: In (0, 1).

    >>> round(epsilon_of_mu(1.0, delta=1e-5), 2)
    4.38
    """
    if not 0 < delta < 1:
        raise ValueError(
            f"delta is {delta}; use a number between 0 and 1: a Gaussian has no pure "
            "epsilon, common.auditing.one_run takes delta 0"
        )
    if not 0 <= mu < math.inf:
        raise ValueError(f"mu is {mu}; use a finite number of at least 0")

    def excess(epsilon: float) -> float:
        first, second = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
        return float(ndtr(first) - math.exp(epsilon + log_ndtr(second)) - delta)

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    high = mu * (mu / 2 - float(ndtri(delta)))  # where the first term alone is delta
    return float(brentq(excess, 0.0, max(high, 1e-12), xtol=1e-12))
