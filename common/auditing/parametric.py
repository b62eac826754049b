"""Epsilon of the mechanism as measured: its noise, its bound on a patient, its sampling rate.

Guarantees
    Epsilon falls as the noise multiplier grows and grows with the sampling rate. If the standard
    deviation of the noise and the rate lie within their intervals, each of confidence 1 - p/2, and
    no patient moves a clipped sum by more than the sensitivity measured, then the epsilon of
    Poisson-sampled Gaussians with these figures lies between the ends with confidence 1 - p. The
    form of the mechanism is taken on trust; the tests of noise and sampler are there to doubt it.

    The accountant needs a minute and a few hundred megabytes for a multiplier of 0.1. Below half of
    the claimed one the lower end is therefore the epsilon at that half, which is less than the true
    one and still refutes the claim, and the value and the upper end are infinite.

    =================================  ==========================
    measured                           epsilon
    =================================  ==========================
    less than half the noise, or none  low at half, high infinite
    nobody sampled                     low 0
    sensitivity 0 (nobody counts)      0
    NaN, infinity, no sample           ValueError
    =================================  ==========================
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from common.auditing.intervals import clopper_pearson, standard_deviation
from common.intervals import Estimate
from common.metrics import Array
from common.privacy import accounting
from common.privacy.events import PoissonGaussian


def epsilon(
    claim: PoissonGaussian,
    *,
    noise: Array,
    sensitivity: float,
    sizes: Array,
    patients: int,
    delta: float,
    p: float = 0.05,
) -> Estimate:
    """Return epsilon with its interval of confidence 1 - p.

    Args:
        claim: The mechanism as accounted for; its number of steps is taken over.
        noise: Private sum minus clipped sum in units of the scale claimed, sigma C; any shape.
        sensitivity: The most one patient moved a clipped sum, in units of C.
        sizes: (steps,) patients in each batch.
        patients: How many there were to draw from.
        delta: At which epsilon is stated.
        p: Probability of missing the true figure, in (0, 1).

    Raises:
        ValueError: a measurement that is empty or not finite.

    >>> claim = PoissonGaussian(sigma=2.0, sampling_rate=1.0, count=4, part="train")
    >>> found = epsilon(claim, noise=np.random.default_rng(0).standard_normal(10_000),
    ...                 sensitivity=1.0, sizes=np.full(4, 50), patients=50, delta=1e-3)
    >>> found.low < accounting.epsilon([claim], delta=1e-3) < found.high
    True
    """
    if not 0 <= sensitivity < math.inf:
        raise ValueError(f"sensitivity is {sensitivity}; use a finite number of at least 0")
    scale = standard_deviation(noise, p=p / 2)
    hits, trials = int(np.sum(sizes)), patients * len(sizes)
    rate = clopper_pearson(hits, trials=trials, p=p / 2)

    def price(scale: float, rate: float, *, lower_end: bool = False) -> float:
        if rate == 0 or sensitivity == 0:
            return 0.0
        sigma = claim.sigma * scale / sensitivity
        if sigma < claim.sigma / 2 and not lower_end:
            return math.inf
        sigma = max(sigma, claim.sigma / 2)
        return accounting.epsilon([replace(claim, sigma=sigma, sampling_rate=rate)], delta=delta)

    assert scale.value is not None
    assert rate.value is not None
    low = price(scale.high, rate.low, lower_end=True)
    return Estimate(price(scale.value, rate.value), low, price(scale.low, rate.high))
