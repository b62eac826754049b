"""What the hospital's own patients say of a model: exact, and for the hospital alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn

from client.desk.cohorts import site_of
from client.desk.received import Received
from client.ledger import Ledger
from client.patients.withdrawal import withdrawn_at
from client.site import Site
from common.auc import auc_estimate
from common.cohort.parts import Cohort, Part
from common.cohort.read import read_cohort
from common.learners.adaptation import adapt_locally
from common.metrics import figures
from common.models import build, initial_params, load_params, pick_device, predict
from common.params import Params
from common.report.site_values import Judged

_Z = 1.959964  # 95%


@dataclass
class Bench:
    """A delivered model beside the hospital's own patients.

    Attributes:
        site: The hospital's folder, read.
        ledger: Says who has withdrawn.
        received: The model.
    """

    site: Site
    ledger: Ledger
    received: Received

    @cached_property
    def model(self) -> nn.Module:
        """The study's model on the site's device; weights are loaded for each use."""
        return build(self.received.plan.study).to(pick_device(self.site.device))

    @cached_property
    def cohort(self) -> Cohort:
        """The patients of the cohort that the study was approved for, without those withdrawn.

        Raises:
            DataError: they cannot be read.
            SiteError: cohort.toml no longer has that cohort.
        """
        without, plan = withdrawn_at(self.site.folder, self.ledger), self.received.plan
        source = site_of(self.site, self.ledger, plan.digest).source
        return read_cohort(source, plan.study.cohort, without=without)

    @cached_property
    def adapted(self) -> Params:
        """The received weights fitted to the training patients: they never leave the hospital."""
        return self._fit(self.received.params)

    @cached_property
    def local(self) -> Params:
        """Weights fitted to the training patients alone, from the study's own start."""
        return self._fit(initial_params(self.received.plan.study, seed=0))

    def judge(self, params: Params) -> Judged:
        """Return exact figures of the weights on the hospital's holdout patients."""
        load_params(self.model, params)
        part = self.cohort.holdout
        ordinal = self.received.plan.study.cohort.label.ordinal
        return judged(predict(self.model, part.x).numpy(), part, ordinal=ordinal)

    def _fit(self, center: Params) -> Params:
        spec = self.received.plan.study.adaptation
        return adapt_locally(self.model, center, self.cohort.train, spec)


def judged(scores: np.ndarray, part: Part, *, ordinal: bool = False) -> Judged:
    """Return the exact figures of one model on one part, every patient of unit mass.

    Args:
        scores: (records, classes) probabilities.
        part: The patients.
        ordinal: Whether the classes are grades.
    """
    labels, weights = part.y.numpy(), part.weights.numpy()
    found = figures(scores, labels, weights, ordinal=ordinal)
    low, high = (None, None)
    if scores.shape[1] == 2 and found.auc is not None:
        positives, negatives = (float(weights[labels == c].sum()) for c in (1, 0))
        low, high = auc_estimate(found.auc, positives=positives, negatives=negatives).interval()
    return {
        "figures": found.to_json(),
        "auc_low": low,
        "auc_high": high,
        "tenths": _tenths(scores, labels == 1, weights) if scores.shape[1] == 2 else [],
    }


def _tenths(
    scores: np.ndarray, sick: np.ndarray, weights: np.ndarray
) -> list[tuple[float, float, float]]:
    """Return (mean score, observed share, patients) for each tenth of the score in use."""
    score = scores[:, 1]
    tenth = np.minimum((score * 10).astype(int), 9)
    rows = []
    for number in np.unique(tenth):
        w = weights * (tenth == number)
        rows.append((float(w @ score / w.sum()), float(w @ sick / w.sum()), float(w.sum())))
    return rows
