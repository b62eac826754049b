"""What the hospital's own patients say of a model: exact, and for the hospital alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from client.desk.cohorts import site_of
from client.desk.received import Received
from client.ledger import Ledger
from client.patients.withdrawal import withdrawn_at
from client.site import Site
from common.auc import auc_estimate
from common.cohort.parts import Cohort, Part
from common.cohort.read import CohortSource, Named, read_named
from common.cohort.schema import CohortSchema, Label
from common.judging import judge, outcomes
from common.learners.adaptation import adapt_locally
from common.models import (
    Classifier,
    build,
    initial_params,
    load_params,
    objective_of,
    pick_device,
    predict,
)
from common.params import Params
from common.report.site_values import Judged
from common.survival import CENSORED

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
    def model(self) -> Classifier:
        """The study's model on the site's device; weights are loaded for each use."""
        return build(self.received.plan.study).to(pick_device(self.site.device))

    @cached_property
    def cohort(self) -> Cohort:
        """The patients of the cohort that the study was approved for, without those withdrawn.

        Raises:
            DataError: they cannot be read.
            SiteError: cohort.toml no longer has that cohort.
        """
        return self.read(self.received.plan.study.cohort)[0]

    @property
    def source(self) -> CohortSource:
        """Where those patients are."""
        return site_of(self.site, self.ledger, self.received.plan.digest).source

    def read(self, schema: CohortSchema) -> tuple[Cohort, tuple[Named, Named]]:
        """Return those patients through a schema, and who they are; errors as of `cohort`."""
        without = withdrawn_at(self.site.folder, self.ledger)
        return read_named(self.source, schema, without=without)

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
        part, label = self.cohort.holdout, self.received.plan.study.cohort.label
        ranked = objective_of(self.model).whole_batch
        return judged(predict(self.model, part.x).numpy(), part, label, ranked=ranked)

    def _fit(self, center: Params) -> Params:
        spec = self.received.plan.study.adaptation
        return adapt_locally(self.model, center, self.cohort.train, spec)


def judged(scores: np.ndarray, part: Part, label: Label, *, ranked: bool = False) -> Judged:
    """Return the exact figures of one model on one part; arguments as `common.judging.judge`."""
    found = judge(scores, part, label, ranked=ranked)
    labels = outcomes(part, label)
    known = labels != CENSORED
    scores, labels, weights = scores[known], labels[known], part.weights.numpy()[known]
    has_risks = scores.shape[1] == 2 and not ranked
    low, high = (None, None)
    if scores.shape[1] == 2 and found.auc is not None:
        positives, negatives = (float(weights[labels == c].sum()) for c in (1, 0))
        low, high = auc_estimate(found.auc, positives=positives, negatives=negatives).interval()
    return {
        "figures": found.to_json(),
        "auc_low": low,
        "auc_high": high,
        "tenths": _tenths(scores, labels == 1, weights) if has_risks else [],
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
