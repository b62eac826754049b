"""The effect at one hospital, from a table that it released with noise.

What leaves is x = counts + N(0, sigma^2) in every cell (`common.effect_table`); all below is a
function of it and of the public sigma, and costs nothing further (post-processing).

Variance. An effect y = g(cells) has, by the delta method, the sampling variance sum g_c^2 c (cells
as Poisson counts: g does not change with the size of an arm, so fixed arms come to the same), and
the noise adds sigma^2 sum g_c^2. Of the log odds ratio, with cells a, b of the treated and c, d of
the others:

    v = (1/a + 1/b + 1/c + 1/d) + sigma^2 (1/a^2 + 1/b^2 + 1/c^2 + 1/d^2)

These v pool hospitals. They take the noisy cells for true, and a logarithm of a small cell with
noise is skewed: y +/- 1.96 sqrt(v) covers far above 95%, and is biased where only large cells have
been let through. So a hospital's own interval turns the question round. An effect theta is N / D, N
and D sums of products of a cell of one arm and a cell of the other (odds ratio: ad / bc), noise in
different cells is independent, so T = N(x) - theta D(x) has mean zero whatever the noise. The
interval is every theta with T^2 <= z^2 V(theta), V being the same formula (times D^2) at the table
that has x's arms and its number of events and the effect theta. Nothing is divided by a noisy cell
and none has to be above zero. Where sigma is 0, effect and interval are metafor's.

Limits. With an expected count of 5 or more in every cell the interval covers 93% to 97% at any
sigma up to 5.5 (tested); below 5 it may miss that, and says so. A hospital with a cell not above
one sigma, a count below zero among them, is 'too noisy': it keeps its interval, where there is one,
and takes no part in the pool (among hospitals like those of a trial this leaves a bias of below a
tenth of the standard error; to ask for two or three sigma would let through the lucky ones alone).
"""

from __future__ import annotations

import math

import numpy as np

from common.meta.effects import MEASURES, two_by_two
from common.meta.heterogeneity import Array
from common.meta.released import Released, Z, ends, too_noisy, wald

LEAST_CELL = 5.0  # expected count below which the interval's coverage is not promised
_RATIOS = np.linspace(-7.0, 7.0, 2801)  # logarithms; an end beyond them is open
_DIFFERENCES = np.linspace(-1.0, 1.0, 2001)
_LEAST = 1e-3  # of a margin: keeps the null table inside


def _products(*pairs: tuple[int, int, float]) -> Array:
    """Return H with x'Hx / 2 the sum of weight * x_i * x_j."""
    h = np.zeros((4, 4))
    for i, j, weight in pairs:
        h[[i, j], [j, i]] += weight
    return h


# Cells a, b, c, d: events and others of the treated, events and others of the control.
_FORMS = {
    "OR": (_products((0, 3, 1)), _products((1, 2, 1))),  # ad / bc
    "RR": (_products((0, 2, 1), (0, 3, 1)), _products((0, 2, 1), (1, 2, 1))),  # a n2 / c n1
    "RD": (
        _products((0, 3, 1), (1, 2, -1)),  # (ad - bc) / n1 n2
        _products((0, 2, 1), (0, 3, 1), (1, 2, 1), (1, 3, 1)),
    ),
}


def table_effect(counts: Array, *, sigma: float, measure: str) -> Released:
    """Return the effect that a released table of patients by arm and outcome tells.

    Args:
        counts: (2, 2): treated first; no event, then event.
        sigma: standard deviation of the noise in each cell; 0 if exact.
        measure: `OR`, `RR` or `RD`.

    >>> exact = table_effect(np.array([[66, 11], [62, 25]]), sigma=0.0, measure="OR")
    >>> round(math.exp(exact.value), 3), round(exact.sampling, 4), exact.noise
    (0.413, 0.1622, 0.0)
    """
    (b, a), (d, c) = np.asarray(counts, dtype=np.float64)
    x = np.array([a, b, c, d])
    note = ""
    if x.min() < LEAST_CELL:
        note = f"a count is below {LEAST_CELL:g}: the interval may not cover 95%"
    if sigma == 0:
        return _exact(x, measure, note)
    low, high = table_interval(x, sigma=sigma, measure=measure)
    if not (x > sigma).all():
        return Released(None, low, high, why=too_noisy("a count", sigma), note=note)
    top, bottom = _FORMS[measure]
    n, d = x @ top @ x / 2, x @ bottom @ x / 2
    slope = (top @ x - n / d * (bottom @ x)) / d  # of n / d
    if MEASURES[measure].ratio:
        slope = slope / (n / d)
    return Released(
        float(np.log(n / d)) if MEASURES[measure].ratio else float(n / d),
        low,
        high,
        float(slope**2 @ x),
        float(sigma**2 * slope @ slope),
        note=note,
    )


def _exact(x: Array, measure: str, note: str) -> Released:
    """metafor's effect and its interval, a half added to all cells where one is empty."""
    y, v, corrected = (float(column[0]) for column in two_by_two(measure, *x[:, None]))
    if math.isnan(y):
        return Released(None, None, None, why="no event, or nothing but events, in both arms")
    if corrected:
        note = "an empty cell: 1/2 was added to all four"
    return wald(y, v, 0.0, note=note)


def table_interval(x: Array, *, sigma: float, measure: str) -> tuple[float | None, float | None]:
    """Return the ends of the effects that a noisy table (a, b, c, d) does not contradict."""
    arms = np.array([x[0] + x[1], x[2] + x[3]])
    if not (arms > 2 * math.sqrt(2) * sigma).all():
        return None, None  # not even the size of an arm is known
    grid = _RATIOS if MEASURES[measure].ratio else _DIFFERENCES
    theta = np.exp(grid) if MEASURES[measure].ratio else grid
    t, v = table_statistic(x, theta, sigma=sigma, measure=measure)
    return ends(grid, t**2 - Z**2 * v)


def table_statistic(x: Array, theta: Array, *, sigma: float, measure: str) -> tuple[Array, Array]:
    """Return T = N - theta D and its variance under theta, for the module's interval.

    Args:
        x: (..., 4) noisy a, b, c, d.
        theta: (...,) odds ratio, risk ratio or risk difference.
        sigma: of the noise.
        measure: which.
    """
    top, bottom = _FORMS[measure]
    h = top - np.asarray(theta)[..., None, None] * bottom
    t = np.einsum("...i,...ij,...j->...", x, h, x) / 2
    null = _null_table(x, np.asarray(theta), measure)
    slope = np.einsum("...ij,...j->...i", h, null)
    return t, (slope**2 * (null + sigma**2)).sum(axis=-1)


def _null_table(x: Array, theta: Array, measure: str) -> Array:
    """Return the table with x's arms and number of events, and the effect theta."""
    n1, n2 = np.maximum(x[..., 0] + x[..., 1], _LEAST), np.maximum(x[..., 2] + x[..., 3], _LEAST)
    events = np.clip(x[..., 0] + x[..., 2], _LEAST * (n1 + n2), (1 - _LEAST) * (n1 + n2))
    if measure == "OR":  # a (n2 - events + a) = theta (events - a) (n1 - a)
        square, line = 1 - theta, n2 - events + theta * (events + n1)
        a = 2 * theta * events * n1
        a = a / (line + np.sqrt(line**2 + 4 * square * theta * events * n1))
        c = events - a
    elif measure == "RR":
        risk = np.clip(events / (n1 * theta + n2), 0.0, np.minimum(1.0, 1 / theta))
        a, c = n1 * theta * risk, n2 * risk
    else:
        risk = np.clip((events - n1 * theta) / (n1 + n2), np.maximum(0.0, -theta),
                       np.minimum(1.0, 1 - theta))  # fmt: skip
        a, c = n1 * (risk + theta), n2 * risk
    cells = np.stack(np.broadcast_arrays(a, n1 - a, c, n2 - c), axis=-1)
    return np.asarray(np.maximum(cells, 0.0))
