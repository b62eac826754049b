"""What a site's own report is made of: plain values, for the hospital's eyes."""

from __future__ import annotations

from typing import Any, TypedDict


class Spent(TypedDict):
    """What one study has cost a patient once a price was reserved.

    `cohorts` names those whose studies add up: each such group has a budget of its own.
    """

    at: str
    study: str
    epsilon: float | None
    cohorts: str


class CohortRow(TypedDict):
    """What a patient of one cohort has spent, what is held besides, and what is left: epsilon.

    `together` names the cohorts whose studies add up, itself among them.
    """

    cohort: str
    together: list[str]
    spent: float | None
    held: float | None
    left: float | None


class StudyRow(TypedDict):
    """One study at this site.

    `epsilon` is None where the study promises nothing and patients were used; `approved` is empty
    where it was not recorded; `refusals` maps a reason to how often it was given.
    """

    study: str
    title: str
    digest: str
    cohort: str
    approved: str
    is_open: bool
    epsilon: float | None
    delta: float
    runs: int
    answered: int
    planned: int
    refusals: dict[str, int]


class Judged(TypedDict):
    """Exact figures of one model on the site's holdout patients.

    `tenths` holds (mean score, observed share, patients) by tenths of the score, of two classes.
    """

    figures: dict[str, float | None]
    auc_low: float | None
    auc_high: float | None
    tenths: list[tuple[float, float, float]]


class ModelRow(TypedDict):
    """A delivered model, and what the site's own patients say of it and of its rivals.

    `judged` maps received, adapted and local to their figures; `problem` says why it is empty.
    """

    study: str
    title: str
    run: str
    train: int
    holdout: int
    judged: dict[str, Judged]
    problem: str


class SiteValues(TypedDict):
    """All of a site's report.

    `ledger` holds `ok`, `entries`, `what` (is wrong) and `behind` (why it must be reconciled).
    `spent` is what was reserved, `held` that or what begun studies may still need, if it is more;
    an epsilon of None has no bound, as after a study that promises nothing. Both are of the
    patients who have spent most; `cohorts` has a row for each cohort.
    """

    site: str
    folder: str
    made: str
    declared: int
    noise_seed: int | None
    paused: bool
    withdrawn: int
    ledger: dict[str, Any]
    limit: dict[str, float]
    spent: dict[str, float | None]
    held: dict[str, float | None]
    cohorts: list[CohortRow]
    spending: list[Spent]
    studies: list[StudyRow]
    models: list[ModelRow]
