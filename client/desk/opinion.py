"""What a hospital's policy says to a study before it has run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from client.desk.cohorts import Groups, check_one_cohort
from client.ledger import Account, Ledger
from client.policy.rules import Rule, rules
from client.policy.spending import total
from client.site import Site
from common.plan import Plan


@dataclass(frozen=True)
class Opinion:
    """What a policy says to a study before it has run.

    Attributes:
        rules: Every rule, in the order in which the gate asks.
        spent: (epsilon, delta) that all studies have spent or hold so far.
        after: The same with this study's whole plan for every run to be approved.
        cohorts: The cohorts of the site whose studies add up to that.
        shared: Why the study's cohort does not stand alone, or None.
    """

    rules: tuple[Rule, ...]
    spent: tuple[float, float]
    after: tuple[float, float]
    cohorts: tuple[str, ...]
    shared: str | None

    @property
    def objections(self) -> tuple[Rule, ...]:
        """The rules that say no."""
        return tuple(rule for rule in self.rules if rule.reason is not None)


def judge(site: Site, ledger: Ledger, plan: Plan, *, runs: int) -> Opinion:
    """Ask every rule of the policy about a study, as the gate would, but for the hours.

    Args:
        site: Whose policy, and which of its cohorts.
        ledger: What was spent.
        plan: The study.
        runs: How many runs of it are to be covered, those begun included.

    Raises:
        SiteError: the study has been charged to another cohort.
    """
    check_one_cohort(site, ledger, plan)
    groups = Groups(site, ledger, asked=plan.digest)
    accounts = groups.counted(ledger.accounts())
    plans = {**site.plans(), plan.digest: plan}
    own = next((a for a in accounts if a.digest == plan.digest), Account(plan.digest, plan.delta))
    # No run of a coordinator has a number for a name that begins with a blank.
    fresh = [f" {n}" for n in range(max(runs, 1) - len(own.runs))]
    padded = replace(own, runs=own.runs.union(fresh))
    begun = [*(a for a in accounts if a.digest != plan.digest), padded]
    found = rules(
        site.policy,
        plan,
        declared=site.cohort.declared,
        run=next(iter(padded.runs)),
        accounts=begun,
        phase="approve",
        plan_of=plans.get,
    )
    return Opinion(
        rules=tuple(found),
        spent=total(accounts, plan_of=plans.get),
        after=total(begun, plan_of=plans.get, begun=frozenset({plan.digest})),
        cohorts=groups.group(site.cohort_name),
        shared=groups.shared_because(site.cohort_name),
    )
