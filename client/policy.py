"""What a hospital allows, and the closed set of reasons with which it says no.

No reason depends on a patient: a refusal may travel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from client.ledger import Account
from common.plan import Plan
from common.privacy.accounting import delta_limit, epsilon
from common.schema import Count, Positive, Table


class Reason(StrEnum):
    """Why a request was refused."""

    MALFORMED = "malformed request"
    UNKNOWN_STUDY = "study not approved here"
    DECLARED_TOO_SMALL = "declared size below the study's minimum"
    DELTA_TOO_LARGE = "delta above 1/(10 x declared size)"
    NOT_PRIVATE = "study makes no privacy promise"
    BUDGET = "privacy budget would be exceeded"
    RUN_LIMIT = "no further run of this study is allowed"
    OUT_OF_PLAN = "round is not in the study's plan"
    ALREADY_ANSWERED = "round was answered before and its answer is no longer kept"
    FAILED = "the site could not compute an answer; its own log says why"


class Refused(Exception):
    """A request that the gate does not answer."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Policy(Table):
    """policy.toml: the hospital's own limits, which no study can raise.

    Attributes:
        epsilon: What one patient may spend in all studies together.
        delta: The deltas of all studies together.
        runs: How many runs of one study.
        allow_unprotected: Whether a study without privacy may run at all; its epsilon is infinite.
        noise_seed: Seeded noise, for simulations only; a real site leaves it out and draws from a
            cryptographic source.
    """

    epsilon: Positive
    delta: Annotated[float, Field(ge=0, lt=1)]
    runs: Count = 1
    allow_unprotected: bool = False
    noise_seed: int | None = None

    def objection(
        self, plan: Plan, *, declared: int, run: str, accounts: Iterable[Account]
    ) -> Reason | None:
        """Return why the site would not go on with this run, or None.

        Args:
            plan: The study asked for.
            declared: The site's declared size.
            run: The run asked for.
            accounts: What the ledger would hold, for each study, with the release asked for.
        """
        if declared < plan.study.cohort.min_declared:
            return Reason.DECLARED_TOO_SMALL
        if plan.delta > delta_limit(declared):
            return Reason.DELTA_TOO_LARGE
        if not plan.private and not self.allow_unprotected:
            return Reason.NOT_PRIVATE
        accounts = list(accounts)
        own = next((a for a in accounts if a.digest == plan.digest), None)
        if own is not None and len(own.runs | {run}) > self.runs:
            return Reason.RUN_LIMIT
        return None if self._affordable(accounts) else Reason.BUDGET

    def _affordable(self, accounts: list[Account]) -> bool:
        """Add up (epsilon, delta) over studies: a later one may depend on an earlier's result."""
        epsilons = [epsilon(a.events, delta=a.delta) for a in accounts if a.events]
        total_epsilon = math.fsum(e for e in epsilons if math.isfinite(e))
        protected = all(math.isfinite(e) for e in epsilons) or self.allow_unprotected
        total_delta = math.fsum(a.delta for a in accounts if a.events)
        return protected and total_epsilon <= self.epsilon and total_delta <= self.delta
