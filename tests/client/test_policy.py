"""What a hospital allows: one test for each reason to say no, at its exact limit."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from client.ledger import Account
from client.policy import Policy, Reason
from common.plan import Plan
from tests.small_world import roomy, small_plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan()


def account(plan: Plan, *, rounds: int, runs: frozenset[str] = frozenset({"main"})) -> Account:
    events = (plan.training_price(rounds=rounds),) if rounds else ()
    return Account(plan.digest, plan.delta, events, runs, reserves=rounds)


def objection(
    policy: Policy, plan: Plan, *accounts: Account, declared: int = 40, run: str = "main"
) -> Reason | None:
    return policy.objection(plan, declared=declared, run=run, accounts=accounts)


def test_a_plan_within_every_limit_is_let_through(plan: Plan) -> None:
    exact = Policy(epsilon=plan.epsilon, delta=plan.delta)
    whole = Account(
        plan.digest,
        plan.delta,
        (plan.training_price(rounds=3), plan.evaluation_price()),
        frozenset({"main"}),
        reserves=4,
    )
    assert objection(exact, plan, whole) is None
    assert objection(exact.model_copy(update={"epsilon": plan.epsilon * 0.999}), plan, whole) is (
        Reason.BUDGET
    )


@pytest.mark.parametrize(("declared", "reason"), [(20, None), (19, Reason.DECLARED_TOO_SMALL)])
def test_a_hospital_below_the_studys_minimum_stays_out(
    declared: int, reason: Reason | None
) -> None:
    plan = small_plan(cohort={"min_declared": 20})
    assert objection(roomy(plan), plan, declared=declared) is reason


@pytest.mark.parametrize(("declared", "reason"), [(100, None), (101, Reason.DELTA_TOO_LARGE)])
def test_delta_is_at_most_a_tenth_of_one_patient(declared: int, reason: Reason | None) -> None:
    # 1 / (10 * 100) = 1e-3, the plan's delta.
    plan = small_plan(privacy={"delta": 1e-3})
    assert objection(roomy(plan), plan, declared=declared) is reason


def test_a_study_without_privacy_needs_leave(plan: Plan) -> None:
    public = small_plan(privacy=None)
    spent = account(public, rounds=1)
    assert spent.events[0].count == 2
    assert objection(roomy(public), public, spent) is Reason.NOT_PRIVATE
    assert objection(roomy(public, allow_unprotected=True), public, spent) is None


def test_an_unprotected_release_of_the_past_closes_a_strict_budget(plan: Plan) -> None:
    # The leave was withdrawn later: what is in the ledger costs infinity all the same.
    past = account(small_plan(privacy=None), rounds=1)
    assert objection(roomy(plan), plan, past) is Reason.BUDGET


def test_epsilons_add_up_over_studies(plan: Plan) -> None:
    # Three rounds of one study and two of another fit; the third round of the second does not.
    other = small_plan(name="other")
    policy = roomy(
        plan, epsilon=plan.epsilon_after(3) + other.epsilon_after(2) + 1e-9, delta=2 * plan.delta
    )
    first = account(other, rounds=3)
    assert objection(policy, plan, first, account(plan, rounds=2)) is None
    assert objection(policy, plan, first, account(plan, rounds=3)) is Reason.BUDGET


def test_deltas_add_up_over_studies(plan: Plan) -> None:
    first, second = account(small_plan(name="other"), rounds=1), account(plan, rounds=1)
    assert objection(roomy(plan, epsilon=1e3, delta=2e-3), plan, first, second) is None
    assert objection(roomy(plan, epsilon=1e3, delta=1.9e-3), plan, first, second) is Reason.BUDGET


def test_a_study_that_has_released_nothing_spends_no_delta(plan: Plan) -> None:
    joined, second = account(small_plan(name="other"), rounds=0), account(plan, rounds=1)
    assert objection(roomy(plan, epsilon=1e3), plan, joined, second) is None


def test_only_so_many_runs_of_a_study(plan: Plan) -> None:
    policy = roomy(plan, epsilon=1e3, runs=2)
    one = account(plan, rounds=1)
    two = account(plan, rounds=1, runs=frozenset({"main", "second"}))
    assert objection(policy, plan, one, run="second") is None
    assert objection(policy, plan, two, run="main") is None
    assert objection(policy, plan, two, run="third") is Reason.RUN_LIMIT
    assert objection(policy, plan, account(small_plan(name="other"), rounds=0)) is None


@pytest.mark.parametrize(
    "values",
    [
        {"epsilon": 0},
        {"epsilon": math.nan},
        {"epsilon": math.inf},
        {"epsilon": 1, "delta": 1},
        {"epsilon": 1, "delta": -1e-9},
        {"epsilon": 1, "runs": 0},
        {"epsilon": 1, "epsilom": 2},
    ],
)
def test_a_policy_that_means_nothing_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Policy(**{"delta": 1e-3, **values})


def test_a_policy_is_strict_unless_it_says_otherwise() -> None:
    policy = Policy(epsilon=1, delta=1e-3)
    assert (policy.runs, policy.allow_unprotected, policy.noise_seed) == (1, False, None)
