"""Epsilon from what was measured: the accountant at the ends, and at faults."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from common.auditing.intervals import clopper_pearson, standard_deviation
from common.auditing.parametric import epsilon
from common.privacy import accounting
from common.privacy.events import PoissonGaussian

CLAIM = PoissonGaussian(sigma=4.0, sampling_rate=0.2, count=5, part="train")
DELTA = 1e-4
CLAIMED = accounting.epsilon([CLAIM], delta=DELTA)


def measured(*, claim=CLAIM, factor=1.0, sensitivity=1.0, rate=0.2, n=40_000, seed=0, p=0.05):
    rng = np.random.default_rng(seed)
    return epsilon(
        claim,
        noise=factor * rng.standard_normal(n),
        sensitivity=sensitivity,
        sizes=rng.binomial(2000, rate, 100),
        patients=2000,
        delta=DELTA,
        p=p,
    )


def test_a_sound_mechanism_has_the_claim_within_its_ends():
    found = measured()
    assert found.low < CLAIMED < found.high
    assert found.low / CLAIMED > 0.95
    assert found.high / CLAIMED < 1.05


def test_the_ends_are_the_accountants_at_the_worst_and_best_figures():
    rng = np.random.default_rng(1)
    noise, sizes = rng.standard_normal((3, 200)), rng.binomial(50, 0.2, 20)
    found = epsilon(
        CLAIM, noise=noise, sensitivity=1.1, sizes=sizes, patients=50, delta=DELTA, p=0.1
    )
    scale = standard_deviation(noise, p=0.05)
    rate = clopper_pearson(int(sizes.sum()), trials=1000, p=0.05)
    for end, s, q in (
        (found.low, scale.high, rate.low),
        (found.value, scale.value, rate.value),
        (found.high, scale.low, rate.high),
    ):
        event = replace(CLAIM, sigma=4.0 * s / 1.1, sampling_rate=q)
        assert end == accounting.epsilon([event], delta=DELTA)
    assert found.low < found.value < found.high


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"factor": 0.7}, {"factor": 0.9}, {"rate": 0.8}])
def test_a_fault_puts_the_lower_end_above_the_claim(fault):
    assert measured(**fault, p=1e-3).low > CLAIMED


def test_a_patient_who_moves_more_than_the_clip_counts_as_less_noise():
    found, twice = measured(sensitivity=1.25), measured(factor=0.8)
    assert found.low == pytest.approx(twice.low, rel=1e-9)
    assert found.low > CLAIMED


@pytest.mark.parametrize("fault", [{"factor": 0.0}, {"factor": 0.1}, {"sensitivity": 1e6}])
def test_below_half_the_noise_the_lower_end_is_that_of_half(fault):
    found = measured(**fault)
    assert found.low > 2 * CLAIMED
    assert found.value == found.high == math.inf
    half = replace(CLAIM, sigma=2.0, sampling_rate=0.2)
    assert found.low == pytest.approx(accounting.epsilon([half], delta=DELTA), rel=0.05)


def test_nobody_sampled_and_nobody_counted_cost_nothing_at_least():
    none, noise = np.zeros(4), np.random.default_rng(2).standard_normal(1000)
    nobody = epsilon(CLAIM, noise=noise, sensitivity=1, sizes=none, patients=50, delta=DELTA)
    assert (nobody.low, nobody.value) == (0.0, 0.0)
    assert 0 < nobody.high < CLAIMED  # 200 chances missed: up to 2% a step
    spared = measured(sensitivity=0.0)
    assert (spared.low, spared.value, spared.high) == (0.0, 0.0, 0.0)


def test_everybody_sampled_keeps_the_rate_at_one():
    everybody = replace(CLAIM, sampling_rate=1.0)
    found = measured(claim=everybody, rate=1.0)
    claimed = accounting.epsilon([everybody], delta=DELTA)
    assert 0.95 * claimed < found.low < found.high < 1.05 * claimed


def test_what_was_not_measured_is_refused():
    for sensitivity in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match="sensitivity is"):
            measured(sensitivity=sensitivity)
    with pytest.raises(ValueError, match="at least one"):
        measured(n=0)
    with pytest.raises(ValueError, match="finite ones only"):
        measured(factor=math.nan)
    with pytest.raises(ValueError, match="at least one trial"):
        epsilon(CLAIM, noise=np.ones(3), sensitivity=1, sizes=np.ones(0), patients=5, delta=DELTA)
