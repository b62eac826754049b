"""Is the batch the Poisson sample that was accounted for? Tests of who was in which batch.

Guarantees
    Of a sound engine each of N patients is in each of T batches with probability q, independently
    of everybody and of every other batch. Each test fails a sound engine with probability at most
    about p: `mean` and `most_sampled` exactly, the others through a distribution matched to the
    exact mean and variance (measured false alarms stand in the tests).

    Of independent draws of Bin(n, q), w = 1 - q, the sum of (b - n q)^2 / (n q w) over k draws has
    mean k and variance k (2 + (1 - 6 q w) / (n q w)), from the binomial's fourth moment. It is
    taken as a gamma variable with these two moments: chi-square, but for the second term.

    ==========================  ====================================================
    batches                     outcome
    ==========================  ====================================================
    q = 1                       passes only if everybody is in every batch
    all of one size (shuffled)  `dispersion` fails: a Poisson sample's size varies
    no batch, no patient        ValueError: nothing was measured
    NaN, a negative size        ValueError
    ==========================  ====================================================
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom, gamma, pearson3

from common.auditing.outcome import Outcome, judge
from common.metrics import Array, Bools


def mean(
    sizes: Array, *, patients: int, rate: float, p: float, name: str = "sampling rate"
) -> Outcome:
    """Test the mean batch: of T batches of N patients the sizes add up to Bin(N T, q).

    Args:
        sizes: (steps,) patients in each batch.
        patients: N, how many there are to draw from.
        rate: q, as accounted for, in (0, 1].
        p: Probability of failing a sound engine, in (0, 1).
        name: Of the outcome.

    Returns:
        |total / (N T) - q| against the largest that chance allows on its side; exact.

    Raises:
        ValueError: no batch, a size that no batch has, or an argument out of range.

    >>> mean(np.array([20, 21, 19]), patients=100, rate=0.05, p=.01).passed
    False
    """
    b = _sizes(sizes, patients, rate, p)
    trials, total = patients * len(b), int(b.sum())
    low = int(binom.ppf(p / 2, trials, rate))  # below it lies at most p / 2
    high = int(binom.isf(p / 2, trials, rate))
    found, edge = total / trials, (low if total < rate * trials else high) / trials
    words = f"{found:.4g} of the patients a step; {rate:.4g} accounted for"
    return judge(name, statistic=abs(found - rate), threshold=abs(edge - rate), detail=words)


def dispersion(
    sizes: Array, *, patients: int, rate: float, p: float, name: str = "batch dispersion"
) -> Outcome:
    """Test the spread of the batch sizes around N q: shuffled batches hardly have any.

    Arguments and errors as `mean`.

    Returns:
        |D - 1| against the largest that chance allows on its side, where D is the mean of
        (b - N q)^2 / (N q (1 - q)), 1 for a Poisson sample.

    >>> dispersion(np.full(100, 50), patients=1000, rate=0.05, p=.01).passed
    False
    """
    b = _sizes(sizes, patients, rate, p)
    return _spread(name, b, n=patients, rate=rate, p=p, noun="batch sizes")


def per_patient(chosen: Bools, *, rate: float, p: float, name: str = "patient counts") -> Outcome:
    """Test how often each patient is drawn: the spread of the counts around T q.

    Arguments and errors as `independence`; the statistic as in `dispersion`, over patients.

    >>> rows = np.arange(100) % 10 == np.arange(10)[:, None]  # every patient once in ten steps
    >>> per_patient(rows, rate=0.1, p=.01).passed
    False
    """
    drawn = _chosen(chosen, rate, p)
    counts = drawn.sum(axis=0).astype(np.float64)
    return _spread(name, counts, n=len(drawn), rate=rate, p=p, noun="counts of patients")


def most_sampled(
    chosen: Bools, *, rate: float, p: float, name: str = "most sampled patient"
) -> Outcome:
    """Test the patient who was drawn most often: each count is Bin(T, q); Bonferroni over patients.

    Arguments and errors as `independence`. The statistic is that patient's count; exact.

    >>> most_sampled(np.ones((50, 3), dtype=bool), rate=0.1, p=.01).passed
    False
    """
    drawn = _chosen(chosen, rate, p)
    counts = drawn.sum(axis=0)
    allowed = int(binom.isf(p / drawn.shape[1], len(drawn), rate))
    words = f"patient {int(counts.argmax())} was in {int(counts.max())} of {len(drawn)} batches"
    return judge(name, statistic=float(counts.max()), threshold=float(allowed), detail=words)


def independence(
    chosen: Bools, *, rate: float, p: float, name: str = "batch independence"
) -> Outcome:
    """Test whether being in one batch says anything of being in the next.

    The sum over patients and steps of (s_t - q)(s_{t+1} - q) has mean 0 and variance
    N (T - 1) (q w)^2, w = 1 - q: products that share a draw are uncorrelated. Its third moment is
    N (T - 1) (q w (1 - 2 q))^2, for a product of three neighbours leaves some draw alone. It is
    taken as a shifted gamma variable with these moments (Pearson's type III). Batches cut from a
    shuffled list avoid those just drawn; a batch kept for several steps repeats them.

    Args:
        chosen: (steps, patients) who was in which batch.
        rate: q, as accounted for, in (0, 1].
        p: Probability of failing a sound engine, in (0, 1).
        name: Of the outcome.

    Returns:
        The size of the sum over its standard deviation, against the largest of its sign.

    Raises:
        ValueError: fewer than two batches, no patient, or an argument out of range.

    >>> independence(np.repeat(np.random.default_rng(0).random((5, 200)) < .1, 2, axis=0),
    ...              rate=0.1, p=.01).passed
    False
    """
    drawn = _chosen(chosen, rate, p)
    steps, patients = drawn.shape
    if steps < 2:
        raise ValueError(f"chosen has {steps} batch; give at least two")
    if rate == 1:
        return _everybody(name, drawn.sum(axis=1), patients)
    moved = drawn - rate
    total = float(np.einsum("tj,tj->", moved[:-1], moved[1:]))
    terms, spread = patients * (steps - 1), rate * (1 - rate)
    z = total / (math.sqrt(terms) * spread)
    skew = (1 - 2 * rate) ** 2 / (spread * math.sqrt(terms))
    allowed = -pearson3.ppf(p / 2, skew) if z < 0 else pearson3.isf(p / 2, skew)
    words = f"batches and their successors agree {z:+.3g} standard deviations more than by chance"
    return judge(name, statistic=abs(z), threshold=float(allowed), detail=words)


def steps(*, taken: int, accounted: int, name: str = "steps") -> Outcome:
    """Test that the optimiser took the steps that the ledger accounts for: an exact count.

    >>> steps(taken=101, accounted=100).passed
    False
    """
    words = f"{taken} steps were taken, {accounted} accounted for"
    return judge(name, statistic=float(abs(taken - accounted)), threshold=0.0, detail=words)


def _spread(name: str, counts: Array, *, n: int, rate: float, p: float, noun: str) -> Outcome:
    """Judge the dispersion of draws of Bin(n, rate)."""
    if rate == 1:
        return _everybody(name, counts, n)
    k, variance = len(counts), n * rate * (1 - rate)
    index = float(((counts - n * rate) ** 2).mean()) / variance
    form = k / (2 + (1 - 6 * rate * (1 - rate)) / variance)  # mean^2 / variance, over k draws
    low, high = gamma.ppf(p / 2, form) / form, gamma.isf(p / 2, form) / form
    allowed = 1 - low if index < 1 else high - 1
    words = f"{noun} have {index:.4g} of a Poisson sample's variance; {low:.3g} to {high:.3g} do"
    return judge(name, statistic=abs(index - 1), threshold=float(allowed), detail=words)


def _everybody(name: str, counts: Array, full: int) -> Outcome:
    """Judge a sample at rate 1: nobody may be missing."""
    missing = float(full - np.min(counts))
    words = "at sampling rate 1 everybody is in every batch"
    return judge(name, statistic=missing, threshold=0.0, detail=words)


def _sizes(sizes: Array, patients: int, rate: float, p: float) -> Array:
    b = np.asarray(sizes, dtype=np.float64)
    _check(rate, p)
    if b.ndim != 1 or not b.size or patients < 1 or not ((b >= 0) & (b <= patients)).all():
        raise ValueError(
            f"sizes {b.shape} of {patients} patients: give at least one batch of at least one "
            "patient to draw from, and sizes from 0 to that number"
        )
    return b


def _chosen(chosen: Bools, rate: float, p: float) -> Bools:
    drawn = np.asarray(chosen, dtype=np.bool_)
    _check(rate, p)
    if drawn.ndim != 2 or not drawn.size:
        raise ValueError(f"chosen {drawn.shape}: give (steps, patients), at least one of each")
    return drawn


def _check(rate: float, p: float) -> None:
    if not 0 < rate <= 1:
        raise ValueError(f"rate is {rate}; use a number above 0 and at most 1")
    if not 0 < p < 1:
        raise ValueError(f"p is {p}; use a number between 0 and 1")
