"""A policy's rules one by one, as the gate asks them and as `site review` prints them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from client.ledger import Account
from client.policy.hours import within_hours
from client.policy.limits import Policy
from client.policy.reasons import Reason
from client.policy.spending import PlanOf, held, total
from common.plan import Plan
from common.privacy.accounting import ADJACENCIES, delta_limit, epsilon


@dataclass(frozen=True)
class Rule:
    """What one rule says to a study.

    Attributes:
        name: The key of policy.toml, or the study's, that sets the limit.
        limit: The limit, in words.
        found: What the study asks for.
        reason: The objection, or None where the study is within the limit.
        remedy: What would remove the objection.
    """

    name: str
    limit: str
    found: str
    reason: Reason | None
    remedy: str


def rules(
    policy: Policy,
    plan: Plan,
    *,
    declared: int,
    run: str,
    accounts: Iterable[Account],
    phase: str = "train",
    now: datetime | None = None,
    plan_of: PlanOf = lambda digest: None,
) -> Iterator[Rule]:
    """Yield every rule with what it says.

    Args:
        policy: What the hospital allows.
        plan: The study asked for.
        declared: The site's declared size.
        run: The run asked for.
        accounts: What the ledger would hold, for each study, with the release asked for.
        phase: What is asked for, or 'approve' for the study as a whole.
        now: Local time; None where the hours do not matter.
        plan_of: Approved plans of the other studies, whose whole price is kept for them.
    """
    if now is not None and policy.hours is not None:
        yield _rule(
            within_hours(policy.hours, now),
            Reason.OUTSIDE_HOURS,
            ("hours", policy.hours, f"{now:%H:%M}"),
            "wait, or widen hours in policy.toml",
        )
    yield from _sizes(policy, plan, declared)
    yield from _noise(policy, plan)
    yield from _allowed(policy, plan, phase)
    yield from _runs(policy, plan, run, list(accounts))
    if phase != "deliver":  # it costs nothing, and comes when all is spent
        yield from _budget(policy, plan, run, list(accounts), plan_of)


def _rule(
    is_kept: bool, reason: Reason, words: tuple[str, str, str], remedy: str | Callable[[], str]
) -> Rule:
    name, limit, found = words
    if is_kept:
        return Rule(name, limit, found, None, "")
    return Rule(name, limit, found, reason, remedy if isinstance(remedy, str) else remedy())


def _sizes(policy: Policy, plan: Plan, declared: int) -> Iterator[Rule]:
    least = plan.study.cohort.min_declared
    yield _rule(
        declared >= least,
        Reason.DECLARED_TOO_SMALL,
        ("study's cohort.min_declared", f"at least {least}", f"declared {declared}"),
        "the study is for larger hospitals",
    )
    yield _rule(
        declared >= policy.min_cohort,
        Reason.COHORT_TOO_SMALL,
        ("min_cohort", f"at least {policy.min_cohort}", f"declared {declared}"),
        "lower min_cohort in policy.toml, or wait for more patients",
    )
    limit = delta_limit(declared)
    yield _rule(
        plan.delta <= limit,
        Reason.DELTA_TOO_LARGE,
        ("study's privacy.delta", f"at most 1/(10 x declared) = {limit:.3g}", f"{plan.delta:g}"),
        "ask for a study with a smaller delta",
    )


def _noise(policy: Policy, plan: Plan) -> Iterator[Rule]:
    yield _rule(
        plan.private or policy.allow_unprotected,
        Reason.NOT_PRIVATE,
        (
            "allow_unprotected",
            "any study" if policy.allow_unprotected else "private studies only",
            "private" if plan.private else "NOT PRIVATE",
        ),
        "ask for a study with a privacy table",
    )
    if plan.private:
        smallest = min(plan.sigmas)
        yield _rule(
            smallest >= policy.min_sigma,
            Reason.SIGMA_TOO_SMALL,
            ("min_sigma", f"at least {policy.min_sigma:g}", f"{smallest:g}"),
            "ask for a study with more noise, or lower min_sigma in policy.toml",
        )
    most = policy.max_steps
    yield _rule(
        most is None or plan.steps <= most,
        Reason.TOO_MANY_STEPS,
        ("max_steps", "any number" if most is None else f"at most {most}", f"{plan.steps} a run"),
        "ask for fewer rounds or local steps, or raise max_steps in policy.toml",
    )


def _allowed(policy: Policy, plan: Plan, phase: str) -> Iterator[Rule]:
    is_effect = plan.study.effect is not None
    asked = (
        ("learners", policy.learners, plan.study.learner.name, Reason.LEARNER_NOT_ALLOWED),
        ("models", policy.models, plan.study.model.name, Reason.MODEL_NOT_ALLOWED),
    )
    for key, allowed, name, reason in asked if not is_effect else ():
        yield _rule(
            not allowed or name in allowed,
            reason,
            (key, ", ".join(allowed) or "all", name),
            f"add {name!r} to {key} in policy.toml",
        )
    # A study of which the evaluation alone is barred can be approved: the site says so each time.
    kinds = ("effect",) if is_effect else ("train", "evaluate")
    asked_for = kinds[0] if phase == "approve" or (is_effect and phase == "evaluate") else phase
    refused = [r for r in kinds if r not in policy.releases]
    later = f"; {refused[0]} will be refused" if phase == "approve" and refused else ""
    yield _rule(
        asked_for not in refused,
        Reason.RELEASE_NOT_ALLOWED,
        ("releases", ", ".join(policy.releases) or "none", f"{asked_for}{later}"),
        f"add {asked_for!r} to releases in policy.toml",
    )


def _begun(plan: Plan, run: str, accounts: list[Account]) -> Account:
    """Return the study's account with this run begun."""
    own = next((a for a in accounts if a.digest == plan.digest), Account(plan.digest, plan.delta))
    return replace(own, runs=own.runs | {run})


def _runs(policy: Policy, plan: Plan, run: str, accounts: list[Account]) -> Iterator[Rule]:
    number = len(_begun(plan, run, accounts).runs)
    yield _rule(
        number <= policy.runs,
        Reason.RUN_LIMIT,
        ("runs", f"at most {policy.runs} of one study", f"{number} with this one"),
        "raise runs in policy.toml and approve the study for more runs (--runs)",
    )


def _budget(
    policy: Policy, plan: Plan, run: str, accounts: list[Account], plan_of: PlanOf
) -> Iterator[Rule]:
    begun = _begun(plan, run, accounts)

    def with_own(digest: str) -> Plan | None:
        return plan if digest == plan.digest else plan_of(digest)

    cost = epsilon(held(begun, plan), delta=begun.delta)
    if plan.private:
        most = policy.study_epsilon
        yield _rule(
            most is None or cost <= most,
            Reason.STUDY_BUDGET,
            (
                "study_epsilon",
                "within epsilon" if most is None else f"at most {most:g}",
                f"{cost:.4g} for the whole study",
            ),
            "ask for a study that costs less, or raise study_epsilon in policy.toml",
        )
    found = [begun, *(a for a in accounts if a.digest != plan.digest)]
    if policy.allow_unprotected:  # infinity is allowed; what is finite still adds up
        found = [a for a in found if _is_finite(a, with_own(a.digest))]
    kinds = {event.adjacency for a in found for event in held(a, with_own(a.digest))}
    yield _rule(
        kinds <= {plan.adjacency},
        Reason.OTHER_ADJACENCY,
        (
            "adjacency",
            ADJACENCIES[next(iter(kinds - {plan.adjacency}), plan.adjacency)],
            ADJACENCIES[plan.adjacency],
        ),
        "keep studies of another adjacency in a site folder of their own",
    )
    spent, delta = total(found, plan_of=with_own, begun=frozenset({plan.digest}))
    yield _rule(
        spent <= policy.epsilon,
        Reason.BUDGET,
        ("epsilon", f"at most {policy.epsilon:g} in a patient's life", f"{spent:.4g} with this"),
        "raise epsilon in policy.toml after a decision of the board, or revoke a study",
    )
    yield _rule(
        delta <= policy.delta,
        Reason.BUDGET,
        ("delta", f"at most {policy.delta:g} in a patient's life", f"{delta:.3g} with this"),
        "raise delta in policy.toml after a decision of the board",
    )


def _is_finite(account: Account, plan: Plan | None) -> bool:
    return math.isfinite(epsilon(held(account, plan), delta=account.delta))
