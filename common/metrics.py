"""Exact figures of one cohort part, and their means over hospitals.

These figures are computed on the patients themselves: they are for the hospital (or a simulation)
alone. What a hospital may release is derived in `common.evaluation` from a noisy histogram.

Every patient weighs the same: a patient with four images gives each of them weight 1/4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

DECISION = 0.5  # a binary score of exactly one half counts as positive, as in the histogram
THRESHOLDS = (0.1, 0.2, 0.3, 0.5)  # risks at which net benefit is reported
LOGIT_CLIP = 1e-6  # scores of 0 and 1 have no logit; beyond this their leverage is absurd anyway
MAX_SLOPE = 50.0  # a steeper calibration line means that the outcomes are separated


@dataclass(frozen=True)
class Figures:
    """Exact figures of one model on one cohort part; None where a figure is undefined.

    Attributes:
        auc: area under the ROC curve; multi-class: mean of one against the rest.
        accuracy: share of patients whose likeliest class is right.
        brier: mean squared error of the probability, 0 to 1; multi-class: summed over classes,
            0 to 2.
        log_loss: mean negative log-likelihood, in nats.
        sensitivity: share of the diseased found; multi-class: mean over the classes present.
        specificity: share of the healthy left alone; multi-class: likewise.
        calibration_slope: of the outcome on logit(score), ideal 1; binary only.
        calibration_intercept: calibration in the large, ideal 0; binary only.
        observed_expected: patients with the disease over the sum of their scores; binary only.
        kappa: quadratic weighted kappa of the likeliest class, 1 if all are right, 0 as by chance;
            of ordinal classes (grades) only.
        c_index: concordance index of risk and time, ideal 1, .5 as by chance; of survival only
            (`common.judging`).
        patients: sum of the weights.
    """

    auc: float | None = None
    accuracy: float | None = None
    brier: float | None = None
    log_loss: float | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    calibration_slope: float | None = None
    calibration_intercept: float | None = None
    observed_expected: float | None = None
    kappa: float | None = None
    c_index: float | None = None
    patients: float = 0.0

    def to_json(self) -> dict[str, float | None]:
        """The figures as plain JSON values, by name."""
        return asdict(self)


def figures(
    scores: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    ordinal: bool = False,
) -> Figures:
    """Compute every exact figure of one cohort part.

    A score that is not a number counts as 0 and one outside [0, 1] as the nearer end, the rule of
    the released histogram; a diverged model thus gets poor figures instead of an error.

    Args:
        scores: (records, classes) probabilities; with two classes, class 1 is the disease.
        labels: (records,) integers in [0, classes).
        weights: (records,) mass of each record, 1 / (records of its patient); default 1.
        ordinal: Whether the classes are grades, in order (`common.cohort.schema.Label.ordinal`).

    Returns:
        The figures, each None where it is undefined (no patients, one class only, separation).

    Raises:
        ValueError: if shapes disagree, or a label is no class.

    Calibration follows Van Calster et al., J Clin Epidemiol 2016.

    >>> two = figures(np.array([[.9, .1], [.2, .8], [.4, .6]]), np.array([0, 1, 0]))
    >>> two.auc, two.specificity, round(two.brier, 4), two.patients
    (1.0, 0.5, 0.1367, 3.0)
    """
    p, y, w = _checked(scores, labels, weights)
    total = float(w.sum())
    if not total > 0:
        return Figures()
    classes = p.shape[1]
    truth = y[:, None] == np.arange(classes)
    ranked = np.arange(1, classes) if classes == 2 else np.arange(classes)
    judged = [c for c in ranked if classes == 2 or truth[w > 0, c].any()]
    choice = (p[:, 1] >= DECISION).astype(int) if classes == 2 else p.argmax(axis=1)
    chosen = choice[:, None] == np.arange(classes)
    squared = ((p - truth) ** 2)[:, ranked].sum(axis=1)
    likelihood = np.clip(p[np.arange(len(y)), y], np.finfo(float).eps, 1.0)
    slope, intercept = _calibration(p[:, 1], truth[:, 1], w) if classes == 2 else (None, None)
    return Figures(
        auc=mean_auc(p, y, w),
        accuracy=float(w @ (choice == y)) / total,
        brier=float(w @ squared) / total,
        log_loss=float(w @ -np.log(likelihood)) / total,
        sensitivity=_mean([_share(chosen[:, c], w * truth[:, c]) for c in judged]),
        specificity=_mean([_share(~chosen[:, c], w * ~truth[:, c]) for c in judged]),
        calibration_slope=slope,
        calibration_intercept=intercept,
        observed_expected=_ratio(float(w @ truth[:, 1]), float(w @ p[:, 1]))
        if classes == 2
        else None,
        kappa=weighted_kappa(choice, y, w) if ordinal else None,
        patients=total,
    )


def weighted_kappa(graded: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float | None:
    """Return quadratic weighted kappa: agreement on grades beyond chance (Cohen 1968).

    1 - sum w_ij O_ij / sum w_ij E_ij with w_ij = (i - j)^2, O the table of patients by true and
    given grade, and E the one expected of the same margins were the two independent.

    Args:
        graded: (records,) the grade given, an integer.
        labels: (records,) the true one.
        weights: (records,) mass of each record.

    Returns:
        At most 1; None where all are of one grade and given it, so that chance explains all.

    >>> weighted_kappa(np.array([0, 1, 2, 1]), np.array([0, 1, 2, 2]), np.ones(4))
    0.8
    """
    from sklearn.metrics import cohen_kappa_score  # half a second, which only grades need

    counted = weights > 0
    used = np.union1d(graded[counted], labels[counted])
    if len(used) < 2:
        return None
    # A grade that nobody has stays between its neighbours: without the list it would be closed up.
    grades = np.arange(used[-1] + 1)
    return float(
        cohen_kappa_score(
            labels[counted],
            graded[counted],
            labels=grades,
            weights="quadratic",
            sample_weight=weights[counted],
        )
    )


def mean_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float | None:
    """Return the `auc` of `figures` alone, many times faster; arguments as there."""
    p, y, w = _checked(scores, labels, weights)
    classes = p.shape[1]
    ranked = range(1, classes) if classes == 2 else range(classes)
    return _mean([auc(p[:, c], y == c, w) for c in ranked])


def auc_variance(area: float, *, positives: float, negatives: float) -> float:
    """Return the sampling variance of an AUC (Hanley and McNeil 1982, equation 2).

    Args:
        area: The AUC.
        positives: How many patients have the disease.
        negatives: How many have not. Less than one patient of either counts as one where further
            patients would make pairs.

    An AUC of 0 or 1 has a variance of 0 here; `common.auc` says what to do about it.

    >>> round(auc_variance(0.8, positives=40, negatives=60) ** 0.5, 4)
    0.0474
    """
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    more, others = max(positives - 1, 0.0), max(negatives - 1, 0.0)
    spread = area * (1 - area) + more * (q1 - area**2) + others * (q2 - area**2)
    return spread / (positives * negatives)


def mean_figures(parts: Sequence[Figures], *, weighted: bool = False) -> Figures:
    """Average figures over hospitals, skipping those where a figure is undefined.

    Args:
        parts: one set of figures a hospital.
        weighted: weigh hospitals by their patients instead of equally.

    Returns:
        The means; `patients` is the sum.

    >>> small, large = Figures(accuracy=.6, patients=10), Figures(accuracy=.9, patients=90)
    >>> mean_figures([small, large]).accuracy, mean_figures([small, large], weighted=True).accuracy
    (0.75, 0.87)
    """

    def mean(name: str) -> float | None:
        known = [(getattr(part, name), part.patients) for part in parts]
        known = [(value, patients) for value, patients in known if value is not None]
        mass = sum(patients for _, patients in known)
        if not weighted or not mass > 0:
            return _mean([value for value, _ in known])
        return float(sum(value * patients for value, patients in known) / mass)

    names = [field.name for field in fields(Figures) if field.name != "patients"]
    return Figures(**{name: mean(name) for name in names}, patients=sum(x.patients for x in parts))


def net_benefit(
    scores: np.ndarray,
    labels: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
    weights: np.ndarray | None = None,
) -> list[dict[str, float | None]]:
    """Net benefit of treating those at or above a risk (Vickers and Elkin, Med Decis Making 2006).

    At threshold t it is TP/n - FP/n * t / (1 - t), in true positives a patient.

    Args:
        scores: (records, 2) probabilities.
        labels: (records,) integers, 0 or 1.
        thresholds: risks in (0, 1).
        weights: (records,) mass of each record; default 1.

    Returns:
        For each threshold its `threshold`, `value` and `treat_all` (treating everyone); values
        are None without patients.

    Raises:
        ValueError: if there are not two classes, or a threshold is not in (0, 1).

    >>> net_benefit(np.array([[.9, .1], [.2, .8], [.4, .6]]), np.array([0, 1, 0]), [.5])
    [{'threshold': 0.5, 'value': 0.0, 'treat_all': -0.3333333333333333}]
    """
    p, y, w = _checked(scores, labels, weights)
    if p.shape[1] != 2:
        raise ValueError(f"scores has {p.shape[1]} classes: net benefit needs two")
    total, sick = float(w.sum()), y == 1
    rows: list[dict[str, float | None]] = []
    for threshold in thresholds:
        if not 0 < threshold < 1:
            raise ValueError(f"thresholds has {threshold}: give risks between 0 and 1")
        gain = np.where(sick, 1.0, -threshold / (1 - threshold)) * w
        value, everyone = float(gain @ (p[:, 1] >= threshold)), float(gain.sum())
        known = total > 0
        rows.append(
            {
                "threshold": float(threshold),
                "value": value / total if known else None,
                "treat_all": everyone / total if known else None,
            }
        )
    return rows


def fit_logistic(
    design: Array, positive: Array, negative: Array, *, offset: Array | float = 0.0
) -> tuple[Array, Array] | None:
    """Unpenalised logistic regression on weighted outcomes, by damped Newton steps.

    The score equations are linear in the outcome masses, so that masses with zero-mean noise, some
    of them negative, still give a consistent fit as long as the information stays positive.

    Args:
        design: (rows, terms) explanatory values.
        positive: (rows,) mass with the outcome.
        negative: (rows,) mass without.
        offset: (rows,) fixed part of the linear predictor.

    Returns:
        Coefficients (terms,) and information (terms, terms), or None where there is no finite
        solution (separation, one outcome only, noise).

    >>> beta, _ = fit_logistic(np.ones((1, 1)), np.array([3.0]), np.array([1.0]))
    >>> bool(abs(beta[0] - np.log(3)) < 1e-9)
    True
    """
    beta, mass = np.zeros(design.shape[1]), positive + negative
    if not mass.sum() > 0:
        return None
    for _ in range(100):
        mean = expit(design @ beta + offset)
        information = (design.T * (mass * mean * (1 - mean))) @ design
        values = np.linalg.eigvalsh(information)
        if not values[0] > 1e-9 * max(values[-1], 1e-3) or np.abs(beta).max() > MAX_SLOPE:
            return None
        step = np.linalg.solve(information, design.T @ (positive - mass * mean))
        beta = beta + step * min(1.0, 2.0 / float(np.abs(step).max(initial=1e-300)))
        if np.abs(step).max() < 1e-10:
            return beta, information
    return None


def _checked(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[Array, NDArray[np.int64], Array]:
    """Scores in [0, 1], integer labels and non-negative weights of agreeing shapes."""
    p, y = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(np.int64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 2 or y.shape != p.shape[:1] or w.shape != y.shape:
        raise ValueError(
            f"scores {p.shape}, labels {y.shape}, weights {w.shape}: give scores as (records, "
            "classes) with at least two classes, and labels and weights as (records,)"
        )
    if y.size and not (y.min() >= 0 and y.max() < p.shape[1]):
        raise ValueError(f"labels run from {y.min()} to {y.max()}: give 0 to {p.shape[1] - 1}")
    if not (np.isfinite(w).all() and (w >= 0).all()):
        raise ValueError("weights has a negative or non-finite value: give masses of at least 0")
    return np.clip(np.nan_to_num(p, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0), y, w


def auc(score: Array, sick: Bools, w: Array) -> float | None:
    """Area under the ROC curve: the weighted share of pairs in the right order, ties half.

    One sort and two sums; learning curves ask for thousands, for which scikit-learn's checks of its
    arguments took longer than the sort. Tests hold it to scikit-learn's.

    Args:
        score: (records,) higher means more likely ill.
        sick: (records,) whether ill.
        w: (records,) mass of each record.

    Returns:
        The area, None with one class only.

    >>> auc(np.array([0.1, 0.4, 0.4]), np.array([False, False, True]), np.ones(3))
    0.75
    """
    if not (w[sick].sum() > 0 and w[~sick].sum() > 0):
        return None
    _, place = np.unique(score, return_inverse=True)
    ill = np.bincount(place, weights=w * sick)
    well = np.bincount(place, weights=w * ~sick)
    right = ill @ (np.cumsum(well) - well / 2)
    return float(right / (ill.sum() * well.sum()))


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None


def _share(event: Bools, w: Array) -> float | None:
    """Weighted share of the event, None without any weight."""
    return float(w @ event / w.sum()) if w.sum() > 0 else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are defined, None without any."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _calibration(score: Array, sick: Bools, w: Array) -> tuple[float | None, float | None]:
    """Calibration slope, and intercept with the slope fixed at 1."""
    x = logit(np.clip(score, LOGIT_CLIP, 1 - LOGIT_CLIP))
    one = np.ones((len(x), 1))
    line = fit_logistic(np.column_stack([one, x]), w * sick, w * ~sick)
    level = fit_logistic(one, w * sick, w * ~sick, offset=x)
    return (
        None if line is None else float(line[0][1]),
        None if level is None else float(level[0][0]),
    )
