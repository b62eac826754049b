"""What studies cost a site's patients: spent, held on paper, and added up.

Within one study every round makes the same events and only their number is adaptive: a coordinator
may stop early or ask again. The largest number that fits is a composition fixed beforehand, and
stopping before it is post-processing, so one PLD prices the study. Across studies the parameters
of a later one may depend on what an earlier one released, and rounds of two studies may alternate,
so their (epsilon, delta) add up (Rogers et al. 2016; Vadhan and Zhang 2023 for rounds that
alternate). PLD is never composed over studies.

An approved study that has begun holds its whole plan, for each run begun, on paper: another study
cannot eat what it still needs. Revoking it frees what was not spent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from client.ledger import Account
from common.plan import Plan
from common.privacy.accounting import epsilon
from common.privacy.events import Event, merge

PlanOf = Callable[[str], Plan | None]
"""Returns the approved plan of a digest, or None."""


def whole_price(plan: Plan, *, runs: int) -> tuple[Event, ...]:
    """Return what `runs` whole runs of a plan cost: every round, and the evaluation."""
    one = [*plan.training_prices(rounds=plan.study.rounds.count), plan.evaluation_price()]
    return merge(one * runs)


def held(account: Account, plan: Plan | None) -> tuple[Event, ...]:
    """Return the events to count for a study: spent, or what its begun runs would come to if more.

    Args:
        account: What the ledger says of the study.
        plan: The study while it is approved; None once it is not.
    """
    if plan is None or not account.runs:
        return account.events
    counts: dict[Event, int] = {}
    for event in (*account.events, *whole_price(plan, runs=len(account.runs))):
        like = replace(event, count=1)
        counts[like] = max(counts.get(like, 0), event.count)
    return merge(replace(like, count=n) for like, n in counts.items())


def total(
    accounts: Iterable[Account], *, plan_of: PlanOf, begun: frozenset[str] = frozenset()
) -> tuple[float, float]:
    """Add up (epsilon, delta) over studies, each at the larger of spent and held.

    Args:
        accounts: What the ledger says of each study.
        plan_of: Approved plans.
        begun: Digests that count as begun although nothing was released yet.

    Returns:
        Epsilon, infinite where any release was unprotected, and delta.
    """
    counted = [a for a in accounts if a.events or a.digest in begun]
    epsilons = [epsilon(held(a, plan_of(a.digest)), delta=a.delta) for a in counted]
    return math.fsum(epsilons), math.fsum(a.delta for a in counted)
