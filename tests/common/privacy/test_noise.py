"""The sources. The secure one cannot be seeded: each of its tests fails a sound source with a
probability of 1e-9 or less (six such checks)."""

import numpy as np
import pytest
import torch
from scipy import stats

from common.privacy.noise import SecureSource, SeededSource, with_noise

RARE = 1e-9
N = 200_000


def two_sided(statistic, distribution):
    return 2 * min(distribution.cdf(statistic), distribution.sf(statistic))


@pytest.fixture(params=[SecureSource, lambda: SeededSource(7)], ids=["secure", "seeded"])
def source(request):
    return request.param()


def test_normals_are_standard_normal(source):
    draws = source.normal(N)
    assert draws.dtype == np.float64
    assert stats.kstest(draws, "norm").pvalue > RARE
    assert two_sided((draws**2).sum(), stats.chi2(N)) > RARE
    assert two_sided(np.sqrt(N) * draws.mean(), stats.norm()) > RARE


def test_normals_do_not_depend_on_each_other(source):
    draws = source.normal(N)
    half = N // 2  # Box-Muller makes draw i and draw i + n/2 from the same pair of uniforms
    for one, other in [(draws[:-1], draws[1:]), (draws[:half], draws[half:])]:
        assert abs(np.corrcoef(one, other)[0, 1]) * np.sqrt(half) < stats.norm.isf(RARE)
    squares = draws**2
    assert abs(np.corrcoef(squares[:half], squares[half:])[0, 1]) * np.sqrt(half) < 10


def test_uniforms_fill_the_half_open_unit_interval(source):
    draws = source.uniform(N)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, bins=256, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > RARE
    assert stats.kstest(draws, "uniform").pvalue > RARE


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_any_count_can_be_drawn(source, n):
    assert source.normal(n).shape == source.uniform(n).shape == (n,)


def test_secure_source_never_repeats():
    one, other = SecureSource(), SecureSource()
    blocks = [s.uniform(1000) for s in (one, one, other)] + [one.normal(1000), one.normal(1000)]
    together = np.concatenate(blocks)
    # 5,000 numbers of 53 bits collide with probability below 2e-9.
    assert np.unique(together).size == together.size
    assert one.secure


class Constant:
    """A cipher stream that yields one byte for ever."""

    def __init__(self, byte):
        self.byte = byte

    def update(self, data):
        return bytes([self.byte]) * len(data)


def test_streams_of_sites_rounds_and_tensors_share_nothing():
    # A source is made for each release; its tensors follow one another in one stream. 3 sites,
    # 4 rounds, 2 tensors: no two of the 24 blocks are alike, correlated or shifted copies.
    blocks = []
    for _ in range(3 * 4):
        stream = SecureSource()
        blocks += [stream.normal(4096), stream.normal(4096)]
    together = np.concatenate(blocks)
    assert np.unique(together).size == together.size
    # 276 pairs at 4,096 lags: the largest |correlation| of white noise stays below 8 / sqrt(4096)
    # but for a probability of 276 * 4096 * 1.2e-15 = 1.4e-9.
    spectra = np.fft.rfft(np.array(blocks))
    for i in range(len(blocks)):
        for j in range(i):
            lags = np.fft.irfft(spectra[i] * spectra[j].conj()) / 4096
            assert np.abs(lags).max() < 8 / np.sqrt(4096)


def test_a_stream_is_not_correlated_with_itself_at_any_lag(source):
    # 2**17 draws: each autocorrelation is normal with standard deviation 2**-8.5.
    n = 2**17
    spectrum = np.abs(np.fft.rfft(source.normal(n))) ** 2
    autocorrelation = np.fft.irfft(spectrum)[1 : n // 2] / n
    assert np.abs(autocorrelation).max() < 8 / np.sqrt(n)


def test_higher_moments_are_those_of_a_normal(source):
    # E x^4 = 3 with variance 96 / n, E x^6 = 15 with variance 10170 / n (moments up to the 12th:
    # 10395 - 15^2). A single uniform pair used for all four summands would give E x^4 = 3 too, but
    # a variance of 4: broken once, the chi-squared test above catches it.
    draws = source.normal(N)
    assert abs((draws**4).mean() - 3) < 8 * np.sqrt(96 / N)
    assert abs((draws**6).mean() - 15) < 12 * np.sqrt(10170 / N)


@pytest.mark.parametrize(
    ("byte", "uniform", "radius"), [(0, 0.0, 0.0), (255, 1 - 2**-53, 2 * 8.5717)]
)
def test_extreme_words_give_finite_normals(byte, uniform, radius):
    # The largest radius is sqrt(2 ln 2^53) = sqrt(2 * 36.7368) = 8.5717; four of them, halved.
    source = SecureSource()
    source._stream = Constant(byte)
    assert source.uniform(3).tolist() == [uniform] * 3
    assert np.hypot(*source.normal(2)) == pytest.approx(radius, abs=1e-3)


def test_seeded_source_is_reproducible_and_says_it_is_not_secure():
    one, same, other = SeededSource(2**62 + 1), SeededSource(2**62 + 1), SeededSource(2**62)
    assert np.array_equal(one.normal(5), same.normal(5))
    assert np.array_equal(one.uniform(5), same.uniform(5))
    assert not np.array_equal(one.normal(5), other.normal(5))
    assert not np.array_equal(one.normal(5), one.normal(5))
    assert not one.secure


@pytest.mark.parametrize("size", [200_000, 300_000])
def test_a_noisy_sum_does_not_keep_the_last_bits_of_the_total(size):
    """Fault it is for: noise rounded to float32 before it is added, so that sums next to 0 lie on
    the total's own grid, and a total of 0 is told from 1 by one of them (Mironov 2012)."""
    noisy = with_noise({"w": torch.ones(size)}, SeededSource(1), scale=1.0)["w"]
    small = noisy[noisy.abs() < 2**-6].double() * 2**24
    assert len(small) > 1000
    assert (small == small.round()).double().mean() < 0.05
