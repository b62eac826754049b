"""Is the noise what was claimed? Four tests of (private sum - clipped sum) / (sigma C).

Guarantees
    Of a sound engine every such sample is an independent standard normal. Each test takes named
    streams of samples (a tensor over all steps, a step over all tensors, a site) and fails a sound
    engine with probability at most p over all its streams together (Bonferroni within the test).

    ==================================  ==========================================
    samples                             outcome
    ==================================  ==========================================
    NaN or infinity in a stream         fails, whatever the others say
    all zeros (noise missing)           fails
    an empty stream, or none            ValueError: nothing was measured
    two values                          judged; no power to speak of
    ==================================  ==========================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import chi2, kstwo, norm, t

from common.auditing.outcome import Outcome, judge
from common.metrics import Array

_OVERLAP = 32  # fewer values in common say nothing of a shifted stream

Whole = NDArray[np.int_]
Finding = tuple[float, float, str]
"""A statistic, the largest that passes, and what was found in words."""


def deviation(streams: Mapping[str, Array], *, p: float, name: str = "noise scale") -> Outcome:
    """Test the standard deviation: n s^2 is chi-square with n degrees of freedom.

    Both tails: too little noise breaks the promise, too much is not the mechanism claimed.

    Args:
        streams: Samples in units of the scale claimed, by name, any shape.
        p: Probability of failing a sound engine, in (0, 1).
        name: Of the outcome.

    Returns:
        The worst stream: |s - 1| against the largest that its number of samples allows on its side.

    Raises:
        ValueError: no samples, or p out of range.

    >>> deviation({"head": 0.5 * np.random.default_rng(0).standard_normal(999)}, p=.01).passed
    False
    """

    def find(label: str, x: Array, level: float) -> Iterator[Finding]:
        scale = math.sqrt(float(x @ x) / x.size)
        low = math.sqrt(chi2.ppf(level / 2, x.size) / x.size)
        high = math.sqrt(chi2.isf(level / 2, x.size) / x.size)
        allowed = 1 - low if scale < 1 else high - 1
        words = f"{label}: {scale:.4g} of the claimed scale; {low:.4g} to {high:.4g} would do"
        yield abs(scale - 1), allowed, words

    return _worst(name, streams, find, p=p)


def shape(streams: Mapping[str, Array], *, p: float, name: str = "noise shape") -> Outcome:
    """Test the distribution: Kolmogorov and Smirnov's distance from the standard normal, exact law.

    Args and errors as `deviation`. The statistic is the largest difference of the distributions.

    >>> shape({"head": np.random.default_rng(0).uniform(-1.7, 1.7, 9999)}, p=.01).passed
    False
    """

    def find(label: str, x: Array, level: float) -> Iterator[Finding]:
        expected, n = ndtr(np.sort(x)), x.size
        above = (np.arange(1, n + 1) / n - expected).max()
        below = (expected - np.arange(n) / n).max()
        distance = float(max(above, below))
        words = f"{label}: {distance:.4g} from the normal distribution"
        yield distance, _largest_distance(n, level), words

    return _worst(name, streams, find, p=p)


@lru_cache(maxsize=256)  # up to a tenth of a second each, and streams are often of one length
def _largest_distance(n: int, level: float) -> float:
    """Return the distance that n samples exceed with probability `level`."""
    return float(kstwo.isf(level, n))


def autocorrelation(
    streams: Mapping[str, Array], *, p: float, name: str = "noise autocorrelation"
) -> Outcome:
    """Test whether neighbours in a stream are independent: r = sum x_i x_{i+1} / sum x_i^2.

    The direction of n independent normals is uniform on the sphere, so that r has mean 0 and
    variance (n - 1) / (n (n + 2)) exactly; its distribution is bounded and taken as normal.

    Args and errors as `deviation`. A stream of zeros or of one value has the statistic 1.

    >>> autocorrelation({"head": np.ones(100)}, p=.01).passed
    False
    """

    def find(label: str, x: Array, level: float) -> Iterator[Finding]:
        n, square = x.size, float(x @ x)
        if n < 2:
            return
        r = abs(float(x[:-1] @ x[1:])) / square if square > 0 else 1.0
        allowed = float(norm.isf(level / 2)) * math.sqrt((n - 1) / (n * (n + 2)))
        yield r, allowed, f"{label}: neighbours correlate {r:.4g}"

    return _worst(name, streams, find, p=p)


def correlation(
    streams: Mapping[str, Array],
    *,
    p: float,
    shifts: bool = False,
    name: str = "noise correlation",
) -> Outcome:
    """Test whether streams are independent of each other: rounds, tensors, sites.

    For independent normals the direction of one is uniform on the sphere, so that the correlation
    of n pairs, means not removed, has r sqrt((n - 1) / (1 - r^2)) exactly Student's t with n - 1
    degrees of freedom. Streams of unequal length are compared over the shorter: noise drawn twice
    from one seed agrees from its first value on. With `shifts` also at every shift, which finds
    one generator read from two places; each shift takes its share of p.

    Args:
        streams: At least two, as in `deviation`.
        p: As in `deviation`.
        shifts: Whether to try every shift that leaves 32 values in common; n log n a pair.
        name: Of the outcome.

    Returns:
        The worst pair: |r| against the largest that chance allows.

    Raises:
        ValueError: fewer than two streams, or as `deviation`.

    >>> x, y = np.random.default_rng(0).standard_normal((2, 100))
    >>> correlation({"step 1": x, "step 2": y, "step 3": x}, p=.01).detail
    'step 1 and step 3: correlation 1'
    """
    flat = _checked(streams, p)
    if len(flat) < 2:
        raise ValueError(f"streams {list(streams)}: give at least two to compare")
    broken = _not_finite(flat)
    if broken:
        return judge(name, statistic=math.inf, threshold=0.0, detail=broken)
    level = p / math.comb(len(flat), 2)
    pairs = combinations(flat.items(), 2)
    found = (_pair(a, x, b, y, level=level, shifts=shifts) for (a, x), (b, y) in pairs)
    statistic, threshold, words = max(found, key=_excess)
    return judge(name, statistic=statistic, threshold=threshold, detail=words)


def _pair(a: str, x: Array, b: str, y: Array, *, level: float, shifts: bool) -> Finding:
    """Return the largest correlation of two streams, at no shift or at any."""
    n = min(x.size, y.size)
    x, y = x[:n], y[:n]
    reach = max(0, n - _OVERLAP) if shifts else 0
    lags = np.arange(-reach, reach + 1)
    overlap = n - np.abs(lags)
    if reach:
        size = 2 * n
        products = np.fft.irfft(np.fft.rfft(x, size) * np.conj(np.fft.rfft(y, size)), size)[lags]
    else:
        products = np.array([x @ y])
    norms = np.sqrt(_square(x, lags, overlap) * _square(y, -lags, overlap))
    r = np.abs(np.divide(products, norms, out=np.ones(len(lags)), where=norms > 0))
    allowed = _largest_r(overlap, level / len(lags))
    worst = int(np.argmax(r / allowed))
    moved = f" shifted by {lags[worst]}" if lags[worst] else ""
    return float(r[worst]), float(allowed[worst]), f"{a} and {b}{moved}: correlation {r[worst]:.4g}"


def _square(x: Array, lags: Whole, overlap: Whole) -> Array:
    """Return the sum of squares of x over what it shares with the other at each lag."""
    total = np.concatenate([[0.0], np.cumsum(x * x)])
    start = np.maximum(lags, 0)
    square: Array = total[start + overlap] - total[start]
    return square


def _largest_r(n: Whole, level: float) -> Array:
    """Return the |r| that n independent pairs exceed with probability `level`; 1 for one pair."""
    freedom = np.maximum(n - 1, 1)
    quantile = t.isf(level / 2, freedom)
    largest: Array = np.where(n > 1, quantile / np.sqrt(freedom + quantile**2), 1.0)
    return largest


def _worst(
    name: str,
    streams: Mapping[str, Array],
    find: Callable[[str, Array, float], Iterator[Finding]],
    *,
    p: float,
) -> Outcome:
    """Judge each stream at its share of p and return the one furthest beyond its threshold."""
    flat = _checked(streams, p)
    broken = _not_finite(flat)
    if broken:
        return judge(name, statistic=math.inf, threshold=0.0, detail=broken)
    found = [f for label, x in flat.items() for f in find(label, x, p / len(flat))]
    if not found:
        raise ValueError(f"streams {list(streams)} have one value each; give more")
    statistic, threshold, words = max(found, key=_excess)
    return judge(name, statistic=statistic, threshold=threshold, detail=words)


def _excess(finding: Finding) -> float:
    return finding[0] / finding[1]


def _checked(streams: Mapping[str, Array], p: float) -> dict[str, Array]:
    """Return the streams flat, in float64."""
    flat = {k: np.asarray(v, dtype=np.float64).reshape(-1) for k, v in streams.items()}
    empty = [name for name, x in flat.items() if not x.size]
    if not flat or empty:
        raise ValueError(f"streams {empty or 'none'}: no samples; give at least one each")
    if not 0 < p < 1:
        raise ValueError(f"p is {p}; use a number between 0 and 1")
    return flat


def _not_finite(flat: Mapping[str, Array]) -> str:
    """Say which stream is not finite, or nothing."""
    for name, x in flat.items():
        bad = int((~np.isfinite(x)).sum())
        if bad:
            return f"{name}: {bad} of {x.size} values are not finite"
    return ""
