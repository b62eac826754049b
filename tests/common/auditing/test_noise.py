"""Tests of noise: faults are found, sound noise fails as often as stated, laws are exact."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, kstest, pearsonr

from common.auditing.noise import autocorrelation, correlation, deviation, shape
from common.privacy.noise import SecureSource, SeededSource

ALL = [deviation, shape, autocorrelation, correlation]


def sound(seed, *, streams=4, n=500):
    return {f"step {i}": SeededSource(100 * seed + i).normal(n) for i in range(streams)}


@pytest.mark.parametrize("test", ALL)
def test_sound_noise_fails_no_more_often_than_stated(test):
    """400 seeds at level .05, 20 expected; more than 36 or fewer than 7 once in two thousand."""
    failed = sum(not test(sound(seed), p=0.05).passed for seed in range(400))
    assert 7 <= failed <= 36


@pytest.mark.slow
@pytest.mark.parametrize("test", ALL)
@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_short_streams_fail_no_more_often_than_stated(test, n):
    """1000 draws at level .01, 10 expected; more than 23 once in ten thousand."""
    rng = np.random.default_rng(n)
    draws = rng.standard_normal((1000, 2, n))
    assert sum(not test({"a": x, "b": y}, p=0.01).passed for x, y in draws) <= 23


@pytest.mark.parametrize("source", [SeededSource(3), SecureSource()])
def test_both_sources_pass(source):
    """The secure one has no seed; level 1e-6 a test makes a failure a matter of centuries."""
    streams = {f"tensor {i}": source.normal(20_000) for i in range(5)}
    for test in ALL:
        assert test(streams, p=1e-6).passed
    assert correlation(streams, p=1e-6, shifts=True).passed


@pytest.mark.parametrize("factor", [0.1, 0.7, 0.9, 1.1, 3.0])
def test_noise_of_another_scale_is_found(factor):
    streams = sound(1, n=5000)
    streams["step 2"] = factor * streams["step 2"]
    found = deviation(streams, p=1e-4)
    assert not found.passed
    assert found.detail.startswith("step 2:")
    assert found.statistic == pytest.approx(abs(factor - 1), abs=0.05)


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_the_scale_is_judged_by_chi_square(factor):
    x = factor * np.random.default_rng(0).standard_normal(50)
    found, n = deviation({"only": x}, p=0.02), 50
    low, high = np.sqrt(chi2.ppf([0.01, 0.99], n) / n)
    scale = np.sqrt((x**2).mean())
    assert found.statistic == pytest.approx(abs(scale - 1))
    assert found.threshold == pytest.approx(1 - low if scale < 1 else high - 1)


@pytest.mark.parametrize("test", ALL)
def test_missing_noise_is_found(test):
    streams = sound(2)
    streams["step 1"] = np.zeros(500)
    found = test(streams, p=1e-6)
    assert not found.passed
    assert "step 1" in found.detail
    assert np.isfinite(found.statistic)


@pytest.mark.parametrize("test", ALL)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_noise_that_is_no_number_fails(test, bad):
    streams = sound(3)
    streams["step 3"][[4, 5]] = bad
    found = test(streams, p=1e-6)
    assert not found.passed
    assert found.detail == "step 3: 2 of 500 values are not finite"


def test_another_shape_of_the_right_scale_is_found():
    rng = np.random.default_rng(4)
    laplace = rng.laplace(size=5000) / np.sqrt(2)
    assert deviation({"x": laplace}, p=1e-3).passed
    assert not shape({"x": laplace}, p=1e-3).passed
    few = np.where(rng.random(5000) < 0.9, rng.standard_normal(5000), 0.0)
    assert not shape({"x": few}, p=1e-3).passed


def test_the_distance_is_scipys():
    x = np.random.default_rng(5).standard_normal(200)
    found, expected = shape({"x": x}, p=0.05), kstest(x, "norm", method="exact")
    assert found.statistic == pytest.approx(expected.statistic, abs=1e-12)
    at = kstest(x, "norm", method="exact")  # the level at which this distance is the threshold
    assert shape({"x": x}, p=at.pvalue * 0.999).passed
    assert not shape({"x": x}, p=min(at.pvalue * 1.001, 0.999)).passed


@pytest.mark.parametrize("sign", [1, -1])
def test_noise_that_follows_itself_is_found(sign):
    rng = np.random.default_rng(6)
    fresh = rng.standard_normal(5001)
    mixed = (fresh[1:] + sign * 0.1 * fresh[:-1]) / np.sqrt(1.01)
    assert deviation({"x": mixed}, p=1e-3).passed
    assert not autocorrelation({"x": mixed}, p=1e-3).passed


@pytest.mark.parametrize("share", [1.0, -1.0, 0.3])
def test_noise_reused_is_found(share):
    streams = sound(7, n=2000)
    rest = np.sqrt(1 - share**2)
    streams["step 3"] = share * streams["step 0"] + rest * streams["step 3"]
    found = correlation(streams, p=1e-6)
    assert not found.passed
    assert found.detail.startswith("step 0 and step 3: correlation")
    assert found.statistic == pytest.approx(abs(share), abs=0.1)


def test_a_seed_shared_by_streams_of_unequal_length_is_found():
    """A large tensor and a small one; a site with more values than another."""
    streams = {"large": SeededSource(1).normal(900), "small": SeededSource(1).normal(100)}
    assert correlation(streams, p=1e-6).statistic == pytest.approx(1.0)


@pytest.mark.parametrize("shift", [1, -1, 40, -450])
def test_one_stream_read_from_two_places_is_found_by_shifts(shift):
    stream = SeededSource(8).normal(1000)
    first, second = stream[500:], stream[500 + shift :][:500]
    streams = {"a": first[: len(second)], "b": second}
    assert correlation(streams, p=1e-4).passed
    found = correlation(streams, p=1e-4, shifts=True)
    assert not found.passed
    assert found.statistic == pytest.approx(1.0)
    assert f"shifted by {shift}" in found.detail


def test_shifts_are_the_correlations_one_by_one():
    """The transform against a loop over all shifts; means are not removed."""
    x, y = np.random.default_rng(9).standard_normal((2, 60))
    y[5:] += 0.5 * x[:-5]
    found = correlation({"a": x, "b": y}, p=0.05, shifts=True)
    loop = {}
    for lag in range(-28, 29):
        a, b = (x[lag:], y[: 60 - lag]) if lag >= 0 else (x[: 60 + lag], y[-lag:])
        loop[lag] = abs(a @ b) / np.sqrt((a @ a) * (b @ b))
    assert found.statistic == pytest.approx(loop[-5], abs=1e-12)
    assert "shifted by -5" in found.detail


def test_shifts_fail_sound_noise_no_more_often_than_stated():
    """200 seeds at level .05, 10 expected at most; more than 23 once in ten thousand."""
    rng = np.random.default_rng(10)
    draws = rng.standard_normal((200, 2, 150))
    assert (
        sum(not correlation({"a": x, "b": y}, p=0.05, shifts=True).passed for x, y in draws) <= 23
    )


def test_the_correlation_at_the_threshold_has_the_level_as_p_value():
    """Student's t: by scipy's p-value of a correlation, which removes means, one value more."""
    rng = np.random.default_rng(11)
    a, b = rng.standard_normal((2, 30))
    threshold = correlation({"a": a, "b": b}, p=0.01).threshold
    a, b = a - a.mean(), b - b.mean()
    b -= a * (a @ b) / (a @ a)
    mixed = threshold * a / np.sqrt(a @ a) + np.sqrt(1 - threshold**2) * b / np.sqrt(b @ b)
    assert a @ mixed / np.sqrt((a @ a) * (mixed @ mixed)) == pytest.approx(threshold)
    with_means = pearsonr(np.append(a, 0), np.append(mixed, 0))  # n + 1 values leave n - 1 free
    assert with_means.statistic == pytest.approx(threshold, abs=1e-6)
    assert with_means.pvalue == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("test", ALL)
def test_what_was_not_measured_is_refused(test):
    with pytest.raises(ValueError, match="give at least one each"):
        test({}, p=0.05)
    with pytest.raises(ValueError, match=r"\['b'\]: no samples"):
        test({"a": np.ones(3), "b": np.ones(0)}, p=0.05)
    for p in (0.0, np.nan):
        with pytest.raises(ValueError, match="p is"):
            test(sound(1), p=p)


def test_one_stream_has_nothing_to_correlate_with():
    with pytest.raises(ValueError, match="at least two"):
        correlation({"a": np.ones(5)}, p=0.05)
    with pytest.raises(ValueError, match="one value each"):
        autocorrelation({"a": np.ones(1)}, p=0.05)


def test_tensors_keep_their_shape_and_outcomes_their_name():
    streams = {"w": np.random.default_rng(12).standard_normal((10, 3, 4))}
    assert deviation(streams, p=0.001, name="B scale").name == "B scale"
    assert autocorrelation(streams, p=0.001).passed
