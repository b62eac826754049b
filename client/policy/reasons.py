"""The closed set of reasons with which a site says no.

No reason that travels depends on a patient (`Reason.told`): a refusal may leave the building.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a request was refused."""

    MALFORMED = "malformed request"
    UNKNOWN_STUDY = "study not approved here"
    NO_POLICY = "the site has no readable policy, so nothing runs"
    PAUSED = "the site has paused"
    OUTSIDE_HOURS = "outside the hours that the site allows"
    DECLARED_TOO_SMALL = "declared size below the study's minimum"
    COHORT_TOO_SMALL = "declared size below the site's own minimum"
    DELTA_TOO_LARGE = "delta above 1/(10 x declared size)"
    NOT_PRIVATE = "study makes no privacy promise"
    SIGMA_TOO_SMALL = "noise below the site's minimum"
    TOO_MANY_STEPS = "more private steps than the site allows"
    LEARNER_NOT_ALLOWED = "learner not allowed by the site"
    MODEL_NOT_ALLOWED = "model not allowed by the site"
    MODEL_TOO_LARGE = "model needs more memory than the site allows"
    RELEASE_NOT_ALLOWED = "kind of release not allowed by the site"
    STUDY_BUDGET = "privacy budget of one study would be exceeded"
    BUDGET = "privacy budget would be exceeded"
    OTHER_ADJACENCY = "its promise is of another adjacency than what was spent, and cannot be added"
    RUN_LIMIT = "no further run of this study is allowed"
    OUT_OF_PLAN = "round is not in the study's plan"
    ALREADY_ANSWERED = "round was answered before and its answer is no longer kept"
    CHANGED_REQUEST = "the same round was asked before with other parameters"
    FALSE_RECEIPT = "the count of releases comes with no receipt that this site gave"
    LEDGER_BEHIND = "ledger must be reconciled first"
    COHORT_CHANGED = "cohort changed since approval"
    TOO_LARGE = "message larger than the site allows"
    BUSY = "the agent is busy"
    FAILED = "the site could not compute an answer; its own log says why"

    @property
    def told(self) -> Reason:
        """What the coordinator hears: that a cohort changed is a fact about patients.

        >>> Reason.COHORT_CHANGED.told
        <Reason.PAUSED: 'the site has paused'>
        """
        return Reason.PAUSED if self is Reason.COHORT_CHANGED else self


class Refused(Exception):
    """A request that the gate does not answer."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
