"""Tests of the sampler: planted faults are found, a Poisson sampler fails as often as stated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from common.auditing.sampler import (
    dispersion,
    independence,
    mean,
    most_sampled,
    per_patient,
    steps,
)

RATE, PATIENTS, STEPS = 0.1, 200, 60


def poisson(seed, *, rate=RATE, patients=PATIENTS, steps=STEPS):
    return np.random.default_rng(seed).random((steps, patients)) < rate


def shuffled(seed, *, batch=20, patients=PATIENTS, steps=STEPS):
    """Every patient once an epoch of patients / batch steps."""
    rng, rows = np.random.default_rng(seed), []
    while len(rows) < steps:
        for part in np.split(rng.permutation(patients), patients // batch):
            rows.append(np.isin(np.arange(patients), part))
    return np.array(rows[:steps])


def judge_all(chosen, *, rate=RATE, p=0.01):
    sizes, patients = chosen.sum(axis=1), chosen.shape[1]
    return {
        "mean": mean(sizes, patients=patients, rate=rate, p=p),
        "dispersion": dispersion(sizes, patients=patients, rate=rate, p=p),
        "per patient": per_patient(chosen, rate=rate, p=p),
        "most": most_sampled(chosen, rate=rate, p=p),
        "independence": independence(chosen, rate=rate, p=p),
    }


def failures(chosen, **options):
    return {name for name, outcome in judge_all(chosen, **options).items() if not outcome.passed}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "patients", "count"), [(0.1, 200, 60), (0.02, 30, 50), (0.5, 100, 10), (0.9, 60, 20)]
)
def test_a_poisson_sampler_fails_no_more_often_than_stated(rate, patients, count):
    """1000 seeds at level .02, 20 expected a test; more than 37 once in five thousand."""
    failed = dict.fromkeys(judge_all(poisson(0)), 0)
    for seed in range(1000):
        chosen = poisson(seed, rate=rate, patients=patients, steps=count)
        for name in failures(chosen, rate=rate, p=0.02):
            failed[name] += 1
    assert max(failed.values()) <= 37, failed
    assert all(n >= 6 for name, n in failed.items() if name != "most"), failed  # not slack either


def test_independence_of_few_patients_fails_no_more_often_than_stated():
    """They share a patient with the next batch .6 times in all, which is far from normal: taken as
    normal it fails 1%. 3000 seeds at level .002, 6 expected; more than 16 once in 8 thousand."""
    draws = (poisson(seed, rate=0.02, patients=30, steps=50) for seed in range(3000))
    assert sum(not independence(chosen, rate=0.02, p=0.002).passed for chosen in draws) <= 16


def test_four_times_the_rate_is_found():
    found = judge_all(poisson(1, rate=4 * RATE), p=1e-6)
    assert not found["mean"].passed
    assert not found["most"].passed
    assert found["mean"].statistic == pytest.approx(3 * RATE, abs=0.02)


def test_shuffled_batches_are_found():
    found = failures(shuffled(2), p=1e-6)
    assert {"dispersion", "per patient", "independence"} <= found
    assert "mean" not in found


def test_patients_drawn_together_are_found_by_the_spread_of_sizes():
    families = np.repeat(poisson(3, patients=PATIENTS // 4), 4, axis=1)
    assert "dispersion" in failures(families, p=1e-4)


def test_a_patient_in_every_batch_is_found():
    chosen = poisson(4)
    chosen[:, 17] = True
    found = most_sampled(chosen, rate=RATE, p=1e-6)
    assert not found.passed
    assert found.detail == "patient 17 was in 60 of 60 batches"


def test_a_batch_kept_for_two_steps_is_found():
    kept = np.repeat(poisson(5, steps=STEPS // 2), 2, axis=0)
    found = independence(kept, rate=RATE, p=1e-6)
    assert not found.passed
    assert "+" in found.detail


def test_some_patients_drawn_more_often_than_others_are_found():
    uneven = np.random.default_rng(6).random((STEPS, PATIENTS)) < np.linspace(0, 0.2, PATIENTS)
    assert "mean" not in failures(uneven, p=1e-4)
    assert "per patient" in failures(uneven, p=1e-4)


def test_the_mean_is_an_exact_binomial_test():
    """At the threshold a total still has p-value p, one further it has less."""
    found = mean(np.array([20.0]), patients=PATIENTS, rate=RATE, p=0.05)
    low = round((RATE + found.threshold) * PATIENTS)  # 20 = N q: the upper side
    assert binomtest(low, PATIENTS, RATE, alternative="greater").pvalue > 0.025
    assert binomtest(low + 1, PATIENTS, RATE, alternative="greater").pvalue <= 0.025
    assert mean(np.array([float(low)]), patients=PATIENTS, rate=RATE, p=0.05).passed
    assert not mean(np.array([low + 1.0]), patients=PATIENTS, rate=RATE, p=0.05).passed
    least = next(k for k in range(20) if binomtest(k, PATIENTS, RATE, "less").pvalue > 0.025)
    assert mean(np.array([float(least)]), patients=PATIENTS, rate=RATE, p=0.05).passed
    assert not mean(np.array([least - 1.0]), patients=PATIENTS, rate=RATE, p=0.05).passed


def test_the_most_sampled_is_judged_by_the_binomial_tail():
    found = most_sampled(poisson(7), rate=RATE, p=0.05)
    over = binomtest(int(found.threshold) + 1, STEPS, RATE, alternative="greater").pvalue
    assert over * PATIENTS <= 0.05
    at = binomtest(int(found.threshold), STEPS, RATE, alternative="greater").pvalue
    assert at * PATIENTS > 0.05


def test_the_statistics_are_the_sums_spelt_out():
    chosen = poisson(8, patients=7, steps=5)
    q, v = RATE, RATE * (1 - RATE)
    pairs = sum(
        (chosen[t, j] - q) * (chosen[t + 1, j] - q) for t in range(4) for j in range(7)
    ) / np.sqrt(28 * v**2)
    assert independence(chosen, rate=q, p=0.05).statistic == pytest.approx(abs(pairs))
    spread = np.mean([(chosen[t].sum() - 7 * q) ** 2 / (7 * v) for t in range(5)])
    found = dispersion(chosen.sum(axis=1), patients=7, rate=q, p=0.05)
    assert found.statistic == pytest.approx(abs(spread - 1))
    spread = np.mean([(chosen[:, j].sum() - 5 * q) ** 2 / (5 * v) for j in range(7)])
    assert per_patient(chosen, rate=q, p=0.05).statistic == pytest.approx(abs(spread - 1))


def test_at_rate_one_everybody_is_in_every_batch():
    everybody = np.ones((5, 8), dtype=bool)
    assert not failures(everybody, rate=1.0)
    everybody[3, 2] = False
    assert failures(everybody, rate=1.0) >= {"mean", "dispersion", "per patient", "independence"}


def test_empty_batches_throughout_are_found():
    assert failures(np.zeros((STEPS, PATIENTS), dtype=bool)) >= {"mean", "dispersion"}


def test_steps_are_counted_exactly():
    assert steps(taken=10, accounted=10).passed
    for taken in (9, 11):
        found = steps(taken=taken, accounted=10)
        assert not found.passed
        assert (found.statistic, found.threshold) == (1.0, 0.0)


def test_what_was_not_measured_is_refused():
    for test in (mean, dispersion):
        for sizes in ([], [np.nan], [-1.0], [11.0], [[1.0]]):
            with pytest.raises(ValueError, match="give at least one batch"):
                test(np.array(sizes), patients=10, rate=0.1, p=0.05)
        with pytest.raises(ValueError, match="patient to draw from"):
            test(np.array([0.0]), patients=0, rate=0.1, p=0.05)
    for test in (per_patient, most_sampled, independence):
        with pytest.raises(ValueError, match="at least one of each"):
            test(np.zeros((3, 0), dtype=bool), rate=0.1, p=0.05)
        for rate, p in ((0.0, 0.05), (np.nan, 0.05), (1.1, 0.05), (0.1, 0.0), (0.1, np.nan)):
            with pytest.raises(ValueError, match="is"):
                test(poisson(0), rate=rate, p=p)
    with pytest.raises(ValueError, match="at least two"):
        independence(poisson(0, steps=1), rate=0.1, p=0.05)
