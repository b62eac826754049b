"""What a model's scores on one part are worth, by what the study's label is.

Of survival, scores are risks by the horizon: the figures of classes are of the patients of whom the
horizon is known, the concordance index is of all. Who had the event is always known, who had not
only sometimes, so risks that are right for all are too low for those who are known: their
calibration is not told.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.cohort.parts import Part
from common.cohort.schema import Label
from common.evaluation import score_histogram
from common.metrics import Figures, figures, mean_auc
from common.survival import CENSORED, by_horizon, c_index

Floats = NDArray[np.float64]


def outcomes(part: Part, label: Label) -> NDArray[np.int64]:
    """Return each record's class, (records,); of survival CENSORED where the horizon is unknown."""
    y: NDArray[np.int64] = part.y.numpy()
    return y if label.horizon is None else by_horizon(y, label.horizon)


def judge(scores: Floats, part: Part, label: Label, *, ranked: bool = False) -> Figures:
    """Return the exact figures of one model on one part, every patient of unit mass.

    Args:
        scores: (records, classes) probabilities.
        part: The patients.
        label: What their outcome is.
        ranked: Whether scores only rank, and are no probabilities: of survival (Cox).
    """
    y, weights = outcomes(part, label), part.weights.numpy()
    known = y != CENSORED
    found = figures(scores[known], y[known], weights[known], ordinal=label.ordinal)
    if label.horizon is None:
        return found
    concordance = c_index(part.y.numpy(), scores[:, 1], weights)
    kept = Figures(auc=found.auc) if ranked else found
    return replace(
        kept,
        calibration_slope=None,
        calibration_intercept=None,
        observed_expected=None,
        c_index=concordance,
        patients=float(weights.sum()),
    )


def exact_auc(scores: Floats, part: Part, label: Label) -> float | None:
    """Return the `auc` of `judge` alone, many times faster."""
    y = outcomes(part, label)
    known = y != CENSORED
    return mean_auc(scores[known], y[known], part.weights.numpy()[known])


def histogram(scores: Floats, part: Part, label: Label, *, bins: int) -> Floats:
    """Return the counts of scores by outcome that a hospital releases with noise.

    Guarantees
        Of survival, a record of whom the horizon is not known counts in no cell. Whether it is
        left out follows from the record alone, and a patient's other records share a mass of one
        as before; so a patient adds a non-negative vector of sum 1 or 0 and the sensitivity that
        `common.evaluation.score_histogram` derives, 1 a class, still holds.

    Args:
        scores: (records, classes) probabilities.
        part: The patients.
        label: What their outcome is.
        bins: Even number of equal bins.
    """
    y, who = outcomes(part, label), part.patient.numpy()
    known = y != CENSORED
    return score_histogram(scores[known], y[known], who[known], bins=bins)
