"""The sources. The secure one cannot be seeded: each of its tests fails a sound source with a
probability of 1e-9 or less (six such checks)."""

import numpy as np
import pytest
from scipy import stats

from common.privacy.noise import SecureSource, SeededSource

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


@pytest.mark.parametrize(("byte", "uniform", "radius"), [(0, 0.0, 0.0), (255, 1 - 2**-53, 8.5717)])
def test_extreme_words_give_finite_normals(byte, uniform, radius):
    # The largest radius is sqrt(2 ln 2^53) = sqrt(2 * 36.7368) = 8.5717.
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
