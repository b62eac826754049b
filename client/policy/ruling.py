"""What the gate asks of a policy before anything is reserved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from client.ledger import Account
from client.policy.limits import Policy
from client.policy.reasons import Reason
from client.policy.rules import rules
from client.policy.spending import PlanOf
from common.plan import Plan


class Judge(Protocol):
    """What the gate asks before anything is reserved; a `Ruling` is one."""

    def objection(
        self, plan: Plan, *, declared: int, run: str, accounts: Iterable[Account]
    ) -> Reason | None:
        """Return why the site would not go on with this run, or None."""
        ...


@dataclass(frozen=True)
class Ruling:
    """A policy with the circumstances of one request: what the agent hands to the gate.

    Attributes:
        policy: What the hospital allows.
        phase: What is asked for.
        plan_of: Approved plans of the other studies, whose whole price is kept for them.
        now: Local time; None where the hours do not matter.
        counted: Picks, of all accounts, those that add up for the patients asked for.
    """

    policy: Policy
    phase: str = "train"
    plan_of: PlanOf = lambda digest: None
    now: datetime | None = None
    counted: Callable[[Iterable[Account]], list[Account]] = list

    def objection(
        self, plan: Plan, *, declared: int, run: str, accounts: Iterable[Account]
    ) -> Reason | None:
        """Return the first rule's reason that says no to this run, or None; see `rules`."""
        found = rules(
            self.policy,
            plan,
            declared=declared,
            run=run,
            accounts=self.counted(accounts),
            phase=self.phase,
            now=self.now,
            plan_of=self.plan_of,
        )
        return next((rule.reason for rule in found if rule.reason is not None), None)
