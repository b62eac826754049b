"""What can be known of a model from one hospital's noisy histogram of scores by outcome.

A hospital releases nothing else about its held-out patients: for each class a histogram of the
shared model's scores, one row for patients without the class and one for those with it, plus
Gaussian noise in every cell. All figures below are functions of it, so they cost nothing further
(post-processing). `common.intervals` says how their intervals are made.

Cost of binning. Scores inside a bin count as tied in the AUC, which is therefore low by about .01
with ten bins and a strong model (.02 if it is overconfident too), half of that with twenty; the
upper end of its interval allows for the order within bins. Brier score and calibration see a bin's
midpoint. A threshold inside a bin shares it out evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logit
from scipy.stats import norm

from common.intervals import Estimate, auc, balanced, coefficient, macro, mean, total_brier
from common.metrics import THRESHOLDS, Array


@dataclass(frozen=True)
class ScoreHistogram:
    """Scores by outcome, one class against the rest, as released.

    Attributes:
        edges: (bins + 1,) increasing, from 0 to 1.
        counts: (classes, 2, bins) patients; row 0 does not have the class, row 1 has it. A binary
            study has one class, the disease.
        sigma: standard deviation of the Gaussian noise in every cell, in patients; 0 if exact.
    """

    edges: Array
    counts: Array
    sigma: float


def bin_edges(bins: int) -> Array:
    """Edges of equal bins, each the nearest double of b / bins, so that 0.3 is 0.3.

    Raises:
        ValueError: if bins is not even and positive (one half must be an edge).

    >>> bin_edges(4).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if bins < 2 or bins % 2:
        raise ValueError(f"bins is {bins}: give an even number, so that 0.5 is an edge")
    return np.arange(bins + 1) / bins


def score_histogram(
    scores: np.ndarray, labels: np.ndarray, patients: np.ndarray, *, bins: int
) -> Array:
    """Count scores by outcome, each patient with a mass of one whatever the number of records.

    A score that is not a number counts in the first bin; scores below 0 and from 1 on in the first
    and the last bin. A label that is no class is 'without' every class. No value of a patient
    raises an error: an error would be a release.

    Guarantees:
        Adding or removing one patient changes each class's (2, bins) histogram by at most 1 in L1
        and therefore in L2 norm. The mass of a record is 1 / (records of its patient), worked out
        here from `patients`, so it rests on nothing that the caller weighs; a record falls in
        exactly one cell of each class; so a patient adds a non-negative vector v with sum 1, and
        |v|_2 <= |v|_1 = 1. Nobody else's mass changes. All C classes together: sqrt(C) in L2,
        which is the price of C releases of sensitivity 1.

    Args:
        scores: (records, classes) probabilities; with two classes only class 1 is counted.
        labels: (records,) integers.
        patients: (records,) integer that names the patient of each record.
        bins: even number of equal bins.

    Returns:
        (classes, 2, bins) counts, exact; (1, 2, bins) for two classes.

    Raises:
        ValueError: if shapes disagree or bins is odd.

    >>> two = score_histogram(np.array([[.9, .1], [.7, .3], [.2, .8]]), np.array([0, 0, 1]),
    ...                       np.array([7, 7, 8]), bins=4)
    >>> two.tolist()
    [[[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]
    """
    p, y, who = np.asarray(scores, dtype=np.float64), np.asarray(labels), np.asarray(patients)
    if p.ndim != 2 or p.shape[1] < 2 or y.shape != p.shape[:1] or who.shape != y.shape:
        raise ValueError(
            f"scores {p.shape}, labels {y.shape}, patients {who.shape}: give scores as (records, "
            "classes) with at least two classes, and labels and patients as (records,)"
        )
    edges = bin_edges(bins)
    _, index, records = np.unique(who, return_inverse=True, return_counts=True)
    mass = 1.0 / records[index]
    inside = np.clip(np.nan_to_num(p, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
    place = np.clip(np.searchsorted(edges, inside, side="right") - 1, 0, bins - 1)
    classes = [1] if p.shape[1] == 2 else range(p.shape[1])
    cells = [(y == c) * bins + place[:, c] for c in classes]
    counts = [np.bincount(cell, weights=mass, minlength=2 * bins) for cell in cells]
    return np.stack(counts).reshape(len(counts), 2, bins).astype(np.float64)


def derive(
    hist: ScoreHistogram, *, level: float = 0.95, thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, object]:
    """Figures and intervals, sampling of patients and noise included, from one histogram.

    The AUC's numerator is a sum of products of a positive and a negative cell. Noise is
    independent between cells and has mean zero, so each product, and the sum, is unbiased; no cell
    is clipped at zero, which would add patients where there are none.

    A figure whose denominator is below two standard deviations of its noise is None, with the
    whole range as its interval (calibration: no interval): too noisy to say. With three classes
    or more, `auc`, `sensitivity` and `specificity` (a class is called where its own score reaches
    one half) are means over the classes that are not too noisy and `brier` is the sum, as in
    `common.metrics`; `accuracy`, calibration and net benefit cannot be had. Nor can weighted kappa
    of grades: it needs the table of true by given grades, and histograms of one class against the
    rest tell neither which class was likeliest nor how far off a wrong one was. An average of
    intervals is valid whatever the dependence between classes.

    Args:
        hist: the release; bins even, so that one half is an edge.
        level: of the intervals.
        thresholds: risks in (0, 1) for net benefit, which is binary only.

    Returns:
        Plain JSON values: `auc`, `accuracy`, `balanced_accuracy`, `sensitivity`, `specificity`,
        `brier`, `calibration_slope`, `calibration_intercept`, each with `_low` and `_high`, and
        `net_benefit`, a list of `threshold`, `value`, `low`, `high`, `treat_all`.

    Raises:
        ValueError: if the histogram's shape, noise or level is not valid.

    Newcombe, Stat Med 2006 (interval of an AUC); Hanley and McNeil, Radiology 1982.

    >>> exact = ScoreHistogram(bin_edges(2), np.array([[[40., 10.], [10., 40.]]]), sigma=0.0)
    >>> found = derive(exact)
    >>> found["auc"], found["accuracy"], round(found["accuracy_low"], 3)
    (0.8, 0.8, 0.711)
    """
    _check(hist, level)
    z = float(norm.isf((1 - level) / 2))
    single = hist.counts.shape[0] == 1
    classes = [_class_figures(hist, counts, z) for counts in hist.counts]
    rows: dict[str, Estimate | None] = {
        name: macro([each[name] for each in classes]) for name in classes[0]
    }
    slope, intercept = _calibration(hist, z) if single else (None, None)
    rows |= {"calibration_slope": slope, "calibration_intercept": intercept}
    if not single:
        rows |= {"accuracy": None, "brier": total_brier([each["brier"] for each in classes])}
    flat: dict[str, object] = {}
    for name, row in rows.items():
        flat[name] = None if row is None else row.value
        flat[f"{name}_low"] = None if row is None else row.low
        flat[f"{name}_high"] = None if row is None else row.high
    flat["net_benefit"] = [_net_benefit(hist, t, z) for t in thresholds] if single else []
    return flat


def _check(hist: ScoreHistogram, level: float) -> None:
    """Refuse a histogram that is not one."""
    edges, counts = hist.edges, hist.counts
    bins = len(edges) - 1
    if counts.ndim != 3 or counts.shape[1:] != (2, bins) or not counts.shape[0] or bins % 2:
        raise ValueError(f"counts {counts.shape}, {bins} bins: give (classes, 2, even bins)")
    if not (np.diff(edges) > 0).all() or edges[0] != 0 or edges[-1] != 1 or edges[bins // 2] != 0.5:
        raise ValueError(f"edges {edges}: give increasing edges from 0 over 0.5 to 1")
    if not np.isfinite(counts).all() or not 0 <= hist.sigma < np.inf or not 0 < level < 1:
        raise ValueError(f"sigma {hist.sigma}, level {level}: give finite counts and sigma")


def _class_figures(hist: ScoreHistogram, counts: Array, z: float) -> dict[str, Estimate]:
    """Figures of one class against the rest."""
    sigma, half = hist.sigma, counts.shape[1] // 2
    middle = (hist.edges[:-1] + hist.edges[1:]) / 2
    called = np.arange(2 * half) >= half
    right = np.stack([~called, called]).astype(float)
    everyone = np.ones_like(counts)
    error = np.stack([middle, 1 - middle]) ** 2
    healthy, sick = everyone * [[1.0], [0.0]], everyone * [[0.0], [1.0]]
    sensitivity = mean(counts, right * sick, among=sick, sigma=sigma, z=z)
    specificity = mean(counts, right * healthy, among=healthy, sigma=sigma, z=z)
    return {
        "auc": auc(counts, hist.edges, sigma=sigma, z=z),
        "accuracy": mean(counts, right, among=everyone, sigma=sigma, z=z),
        "balanced_accuracy": balanced(sensitivity, specificity),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "brier": mean(counts, error, among=everyone, sigma=sigma, z=z),
    }


def _net_benefit(hist: ScoreHistogram, threshold: float, z: float) -> dict[str, float | None]:
    """Net benefit at one risk; a bin that the risk cuts is shared out evenly."""
    if not 0 < threshold < 1:
        raise ValueError(f"thresholds has {threshold}: give risks between 0 and 1")
    odds = threshold / (1 - threshold)
    width = np.diff(hist.edges)
    treated = np.clip((hist.edges[1:] - threshold) / width, 0.0, 1.0)
    treated = np.where(np.abs(treated - np.round(treated)) < 1e-9, np.round(treated), treated)
    gain, everywhere = np.array([[-odds], [1.0]]), np.ones_like(hist.counts[0])

    def benefit(share: Array) -> Estimate:
        cost = (gain * share + odds) / (1 + odds)  # gains run from -odds to 1, costs from 0 to 1
        row = mean(hist.counts[0], cost, among=everywhere, sigma=hist.sigma, z=z)
        value = None if row.value is None else row.value * (1 + odds) - odds
        return Estimate(value, row.low * (1 + odds) - odds, row.high * (1 + odds) - odds)

    row, everyone = benefit(treated), benefit(np.ones_like(treated))
    return {
        "threshold": float(threshold),
        "value": row.value,
        "low": row.low,
        "high": row.high,
        "treat_all": everyone.value,
    }


def _calibration(hist: ScoreHistogram, z: float) -> tuple[Estimate | None, Estimate | None]:
    """Calibration slope, and intercept with the slope fixed at 1."""
    middle = (hist.edges[:-1] + hist.edges[1:]) / 2
    x = logit(middle)
    # Logits run to infinity in the first and last bin, where a midpoint says little. Choosing by
    # the score alone does not bias a regression on it, so the slope goes without these two.
    inner = slice(1, -1) if len(x) > 4 else slice(None)
    slope = coefficient(hist.counts[0][:, inner], x[inner], sigma=hist.sigma, z=z, slope=True)
    intercept = coefficient(hist.counts[0], x, sigma=hist.sigma, z=z, slope=False)
    # The intercept keeps them. Scores crowd towards 0 and 1 there: the interval lets the mean of
    # either bin lie anywhere from its middle to half-way to its end.
    low, high = x.copy(), x.copy()
    low[-1], high[0] = -logit((1 - middle[-1]) / 2), logit(middle[0] / 2)
    least = coefficient(hist.counts[0], low, sigma=hist.sigma, z=z, slope=False)
    most = coefficient(hist.counts[0], high, sigma=hist.sigma, z=z, slope=False)
    if intercept is None or least is None or most is None:
        return slope, None
    low_end, high_end = min(intercept.low, least.low), max(intercept.high, most.high)
    return slope, replace(intercept, low=low_end, high=high_end)
