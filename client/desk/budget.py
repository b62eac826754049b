"""A site's budget: what patients have spent, what begun studies hold on paper, what is left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from client.desk.burn_down import burn_down
from client.desk.cohorts import Groups
from client.ledger import Account, Ledger
from client.policy import Policy
from client.policy.spending import held, total, whole_price
from client.site import Site
from common.plan import Plan
from common.privacy.accounting import ACCOUNTANT, ADJACENCY, UNIT, epsilon
from common.privacy.events import one_adjacency


@dataclass(frozen=True)
class Line:
    """One study; epsilon in each case of (epsilon, `delta`).

    Attributes:
        digest: The study's.
        cohort: The cohort that it was approved for.
        study: Its name; empty where its plan is no longer approved.
        spent: What one patient has spent at most.
        train: What a training patient has spent.
        holdout: What an evaluating patient has spent.
        reserved: What the study still holds on paper, to end the runs that it has begun.
        plan: What one whole run costs; None where its plan is no longer approved.
        delta: Of the study's promise, spent with its first release.
        runs: How many have begun.
        reserves: How many priced releases were reserved, answered or not.
    """

    digest: str
    cohort: str
    study: str
    spent: float
    train: float
    holdout: float
    reserved: float
    plan: float | None
    delta: float
    runs: int
    reserves: int


@dataclass(frozen=True)
class Purse:
    """Limit, spent, held on paper beyond that, and left; infinite where noise was left out."""

    limit: float
    spent: float
    reserved: float
    left: float


@dataclass(frozen=True)
class CohortLine:
    """One cohort.

    Attributes:
        cohort: Its name.
        together: The cohorts whose studies add up for its patients, itself among them.
        shared: Why it does not stand alone, or None.
        epsilon: Of one of its patients, over all studies that add up.
        delta: Likewise.
    """

    cohort: str
    together: tuple[str, ...]
    shared: str | None
    epsilon: Purse
    delta: Purse


@dataclass(frozen=True)
class Budget:
    """The budget of a site's patients.

    Attributes:
        site: The site's name.
        epsilon: Of the patients who have spent or hold most, over all studies that add up for them.
        delta: Likewise.
        cohorts: One line each.
        studies: One line each, those begun first.
    """

    site: str
    epsilon: Purse
    delta: Purse
    cohorts: tuple[CohortLine, ...]
    studies: tuple[Line, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; infinity, which JSON has not, is None."""
        promise = {"unit": UNIT, "adjacency": ADJACENCY, "accountant": ACCOUNTANT}
        return {**_finite(asdict(self)), **promise}


def budget_of(
    accounts: Iterable[Account],
    *,
    policy: Policy,
    plans: Mapping[str, Plan],
    groups: Groups,
    site: str = "",
) -> Budget:
    """Say what was spent, what is held on paper and what is left.

    Args:
        accounts: What the ledger says of each study.
        policy: The site's limits.
        plans: Approved plans by digest.
        groups: Which cohorts' studies add up.
        site: The site's name.

    Raises:
        GrandroundsError: the ledger holds events of different adjacency.
    """
    accounts = list(accounts)
    one_adjacency(event for account in accounts for event in account.events)
    cohorts = tuple(
        _cohort_line(name, groups, accounts, policy=policy, plans=plans) for name in groups.names
    )
    waiting = [
        Account(d, p.delta) for d, p in plans.items() if d not in {a.digest for a in accounts}
    ]
    return Budget(
        site=site,
        epsilon=_most([line.epsilon for line in cohorts]),
        delta=_most([line.delta for line in cohorts]),
        cohorts=cohorts,
        studies=tuple(
            _line(account, plans.get(account.digest), cohort=groups.cohort(account.digest))
            for account in accounts + waiting
        ),
    )


def _cohort_line(
    name: str,
    groups: Groups,
    accounts: list[Account],
    *,
    policy: Policy,
    plans: Mapping[str, Plan],
) -> CohortLine:
    counted = groups.counted(accounts, cohort=name)
    spent, spent_delta = total(counted, plan_of=lambda digest: None)
    all_held, held_delta = total(counted, plan_of=plans.get)
    return CohortLine(
        cohort=name,
        together=groups.group(name),
        shared=groups.shared_because(name),
        epsilon=_purse(policy.epsilon, spent=spent, held=all_held),
        delta=_purse(policy.delta, spent=spent_delta, held=held_delta),
    )


def _most(purses: list[Purse]) -> Purse:
    """Return the most that any patient has spent, and the most that is held for any."""
    spent = max(purse.spent for purse in purses)
    held = max(purse.spent + purse.reserved for purse in purses)
    return _purse(purses[0].limit, spent=spent, held=held)


def budget(site: Site, ledger: Ledger) -> dict[str, Any]:
    """Return a site's budget, with its burn-down, as plain values.

    Args:
        site: The site's folder, read.
        ledger: Its ledger.

    Returns:
        `Budget.to_json` with `burn_down`: a list of `Point` as dicts.
    """
    groups = Groups(site, ledger)
    found = budget_of(
        ledger.accounts(),
        policy=site.policy,
        plans=site.plans(),
        groups=groups,
        site=site.cohort.name,
    )
    points = burn_down(ledger.entries(), groups)
    return {**found.to_json(), "burn_down": [_finite(point._asdict()) for point in points]}


def _line(account: Account, plan: Plan | None, *, cohort: str) -> Line:
    delta = account.delta
    parts = {
        part: epsilon((e for e in account.events if e.part == part), delta=delta)
        for part in ("train", "holdout")
    }
    spent = max(parts.values())
    all_held = epsilon(held(account, plan), delta=delta) if account.events else 0.0
    return Line(
        digest=account.digest,
        cohort=cohort,
        study="" if plan is None else plan.study.name,
        spent=spent,
        **parts,
        reserved=_beyond(all_held, spent),
        plan=None if plan is None else epsilon(whole_price(plan, runs=1), delta=plan.delta),
        delta=delta,
        runs=len(account.runs),
        reserves=account.reserves,
    )


def _purse(limit: float, *, spent: float, held: float) -> Purse:
    return Purse(limit, spent, _beyond(held, spent), max(0.0, limit - held))


def _beyond(whole: float, part: float) -> float:
    return max(0.0, whole - part) if math.isfinite(part) else 0.0


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
