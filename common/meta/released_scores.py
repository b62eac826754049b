"""AUC and observed over expected at one hospital, from its released histogram of scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from common.evaluation import ScoreHistogram, derive
from common.meta.effects import auc_from_interval
from common.meta.heterogeneity import Array
from common.meta.released import Released, Z, ends, too_noisy

_RATIOS = np.linspace(-7.0, 7.0, 2801)  # logarithms of O/E; an end beyond them is open
_CLEAR = 2.0  # noise deviations above which a sum is told from noise


def auc_effect(hist: ScoreHistogram) -> Released:
    """Return the logit of the AUC that a histogram tells.

    Value, interval and variance are those of `common.evaluation.derive`, noise included; what of
    the variance is the noise's is what it loses where sigma is taken as 0. With three classes or
    more it is the mean over classes of one against the rest.

    >>> exact = ScoreHistogram(np.array([0, .5, 1]), np.array([[[40., 10.], [10., 40.]]]), 0.0)
    >>> round(auc_effect(exact).value, 4), auc_effect(exact).noise
    (1.3863, 0.0)
    """
    found = derive(hist)
    if found["auc"] is None:
        return Released(None, None, None, why=too_noisy("one of the outcomes", hist.sigma))
    value, total, low, high = _logits(found)
    if low is None and high is None:
        return Released(None, None, None, why=too_noisy("the AUC", hist.sigma))
    sampling = total
    if hist.sigma > 0:
        sampling = min(total, _logits(derive(replace(hist, sigma=0.0)))[1])
    return Released(value, low, high, sampling, total - sampling)


def _logits(found: dict[str, object]) -> tuple[float, float, float | None, float | None]:
    """Return an AUC on the logit scale: value, variance, and its ends, None where they are open."""
    ends_of = np.array([[found["auc"]], [found["auc_low"]], [found["auc_high"]]], dtype=np.float64)
    y, v = auc_from_interval(*ends_of)
    low, high = float(ends_of[1, 0]), float(ends_of[2, 0])
    return (
        float(y[0]),
        float(v[0]),
        math.log(low / (1 - low)) if 0 < low < 1 else None,
        math.log(high / (1 - high)) if 0 < high < 1 else None,
    )


def oe_effect(hist: ScoreHistogram) -> Released:
    """Return the logarithm of observed over expected events that a histogram tells.

    O is the patients with the event, E the sum of scores, each taken at the middle of its bin: E is
    off by up to half a bin's width a patient, which no interval here covers. The variance of log
    O/E is (1 - O/N) / O (Debray et al., BMJ 2017), and the noise, of deviation sigma in each cell
    at the middle m, adds

        sigma^2 (sum over cells with the event of (1/O - m/E)^2, over those without of (m/E)^2).

    The interval is every theta with (O - theta E)^2 <= z^2 V(theta): T = O - theta E has mean
    zero whatever the noise, and V is the same formula, times O^2, at O = theta E.

    >>> exact = ScoreHistogram(np.array([0, .5, 1]), np.array([[[60., 0.], [20., 0.]]]), 0.0)
    >>> round(oe_effect(exact).value, 6)
    0.0
    """
    if len(hist.counts) != 1:
        return Released(None, None, None, why="O/E is of two classes")
    middle = (hist.edges[:-1] + hist.edges[1:]) / 2
    without, having = hist.counts[0]
    observed, n = float(having.sum()), float(hist.counts.sum())
    expected = float(middle @ (without + having))
    noise = hist.sigma * math.sqrt(len(middle)), hist.sigma * math.sqrt(2 * float(middle @ middle))
    if not (n > observed > _CLEAR * noise[0] and expected > _CLEAR * noise[1]):
        return Released(None, None, None, why=too_noisy("observed or expected", hist.sigma))
    theta = np.exp(_RATIOS)
    share = np.clip(theta * expected / n, 0.0, 1.0)
    variance = n * share * (1 - share) + hist.sigma**2 * _noise(middle, theta)
    low, high = ends(_RATIOS, (observed - theta * expected) ** 2 - Z**2 * variance)
    ratio = observed / expected
    return Released(
        math.log(ratio),
        low,
        high,
        (1 - observed / n) / observed,
        hist.sigma**2 * float(_noise(middle, np.array([ratio]))[0]) / observed**2,
    )


def _noise(middle: Array, theta: Array) -> Array:
    """Return the variance of O - theta E by noise of deviation 1 in each cell, (points,)."""
    product = np.outer(theta, middle)
    return np.asarray(((1 - product) ** 2 + product**2).sum(axis=1))
