"""What a hospital allows: one test for each reason to say no, at its exact limit."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from client.ledger import Account
from client.policy import Policy, Reason, Ruling
from common.plan import Plan
from tests.small_world import roomy, small_plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan()


def account(plan: Plan, *, rounds: int, runs: frozenset[str] = frozenset({"main"})) -> Account:
    events = plan.training_prices(rounds=rounds) if rounds else ()
    return Account(plan.digest, plan.delta, events, runs, reserves=rounds)


def objection(
    policy: Policy,
    plan: Plan,
    *accounts: Account,
    declared: int = 40,
    run: str = "main",
    **circumstances: Any,
) -> Reason | None:
    ruling = Ruling(policy, **circumstances)
    return ruling.objection(plan, declared=declared, run=run, accounts=accounts)


def test_a_plan_within_every_limit_is_let_through(plan: Plan) -> None:
    exact = Policy(epsilon=plan.epsilon, delta=plan.delta)
    whole = Account(
        plan.digest,
        plan.delta,
        (*plan.training_prices(rounds=3), plan.evaluation_price()),
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
    # Three rounds of a study that is over, and the whole of this one, which fits exactly or not.
    other = small_plan(name="other")
    both = other.epsilon_after(3) + plan.epsilon
    first, second = account(other, rounds=3), account(plan, rounds=2)
    enough = roomy(plan, epsilon=both + 1e-9, delta=2 * plan.delta)
    assert objection(enough, plan, first, second) is None
    short = roomy(plan, epsilon=both - 1e-9, delta=2 * plan.delta)
    assert objection(short, plan, first, second) is Reason.BUDGET


def test_what_a_begun_study_still_needs_is_kept_for_it(plan: Plan) -> None:
    # Break it once: count what is spent only, and the other study loses its last rounds.
    other = small_plan(name="other", evaluation={"epsilon": 1.0})
    begun = account(other, rounds=1)
    assert other.epsilon > other.epsilon_after(1)
    policy = roomy(plan, epsilon=plan.epsilon + other.epsilon_after(1), delta=2 * plan.delta)
    assert objection(policy, plan, begun) is None
    kept = {"plan_of": {other.digest: other}.get}
    assert objection(policy, plan, begun, **kept) is Reason.BUDGET
    wide = roomy(plan, epsilon=plan.epsilon + other.epsilon + 1e-9, delta=2 * plan.delta)
    assert objection(wide, plan, begun, **kept) is None


def test_a_study_whose_whole_plan_does_not_fit_is_not_even_begun(plan: Plan) -> None:
    policy = roomy(plan, epsilon=0.999 * plan.epsilon)
    assert plan.epsilon_after(1) < policy.epsilon
    assert objection(policy, plan, phase="join") is Reason.BUDGET
    assert objection(policy, plan, account(plan, rounds=1)) is Reason.BUDGET


def test_rounds_repeated_after_a_crash_count_beyond_the_plan(plan: Plan) -> None:
    policy = roomy(plan, epsilon=plan.epsilon)
    assert objection(policy, plan, account(plan, rounds=3)) is None
    assert objection(policy, plan, account(plan, rounds=4)) is Reason.BUDGET


def test_one_study_has_a_limit_of_its_own(plan: Plan) -> None:
    assert objection(roomy(plan, study_epsilon=plan.epsilon), plan) is None
    policy = roomy(plan, study_epsilon=0.999 * plan.epsilon)
    assert objection(policy, plan) is Reason.STUDY_BUDGET


LIMITS: list[tuple[dict[str, Any], dict[str, Any], Reason]] = [
    # The small study: sigma 4, evaluation sigma 1.633, 2 x 3 steps, reptile, logistic, 40 patients.
    ({"min_sigma": 1.633}, {"min_sigma": 1.634}, Reason.SIGMA_TOO_SMALL),
    ({"max_steps": 6}, {"max_steps": 5}, Reason.TOO_MANY_STEPS),
    ({"min_cohort": 40}, {"min_cohort": 41}, Reason.COHORT_TOO_SMALL),
    ({"learners": ["reptile"]}, {"learners": ["fedavg"]}, Reason.LEARNER_NOT_ALLOWED),
    ({"models": ["mlp", "logistic"]}, {"models": ["mlp"]}, Reason.MODEL_NOT_ALLOWED),
    ({"releases": ["train"]}, {"releases": ["evaluate"]}, Reason.RELEASE_NOT_ALLOWED),
    ({"hours": "11:00-13:00"}, {"hours": "13:00-11:00"}, Reason.OUTSIDE_HOURS),
]


@pytest.mark.parametrize(("within", "beyond", "reason"), LIMITS, ids=[str(x[2]) for x in LIMITS])
def test_each_limit_is_held_exactly(
    plan: Plan, within: dict[str, Any], beyond: dict[str, Any], reason: Reason
) -> None:
    noon = datetime(2026, 1, 1, 12)
    assert objection(roomy(plan, **within), plan, now=noon) is None
    assert objection(roomy(plan, **beyond), plan, now=noon) is reason


def test_only_what_leaves_can_be_barred(plan: Plan) -> None:
    policy = roomy(plan, releases=[])
    for phase in ("join", "deliver"):
        assert objection(policy, plan, phase=phase) is None
    for phase in ("train", "evaluate"):
        assert objection(policy, plan, phase=phase) is Reason.RELEASE_NOT_ALLOWED


def test_a_finished_model_is_taken_when_all_is_spent_but_not_of_another_run(plan: Plan) -> None:
    policy, over = roomy(plan, epsilon=plan.epsilon / 2), account(plan, rounds=3)
    assert objection(policy, plan, over) is Reason.BUDGET
    assert objection(policy, plan, over, phase="deliver") is None
    assert objection(policy, plan, over, run="x", phase="deliver") is Reason.RUN_LIMIT


def test_a_ruling_says_what_the_policy_says_under_its_circumstances(plan: Plan) -> None:
    policy = roomy(plan, hours="20:00-06:00", releases=["train"])
    late, noon = datetime(2026, 1, 1, 23), datetime(2026, 1, 1, 12)
    said = [
        Ruling(policy, phase, {}.get, now).objection(plan, declared=40, run="main", accounts=[])
        for phase, now in (("train", late), ("evaluate", late), ("train", noon))
    ]
    assert said == [None, Reason.RELEASE_NOT_ALLOWED, Reason.OUTSIDE_HOURS]


def test_an_approval_can_cover_fewer_runs_than_the_policy_and_never_more(plan: Plan) -> None:
    policy = roomy(plan, runs=2)
    assert [policy.for_runs(n).runs for n in (None, 1, 2, 3)] == [2, 1, 2, 2]


def test_what_depends_on_patients_is_told_as_something_that_does_not() -> None:
    assert [r for r in Reason if r.told is not r] == [Reason.COHORT_CHANGED]
    assert Reason.COHORT_CHANGED.told is Reason.PAUSED


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
        {"epsilon": 1, "hours": "20-6"},
        {"epsilon": 1, "hours": "24:00-06:00"},
        {"epsilon": 1, "hours": "06:00-06:00"},
        {"epsilon": 1, "releases": ["predict"]},
        {"epsilon": 1, "learners": ["reptil"]},
        {"epsilon": 1, "models": ["logistic", "resnet"]},
        {"epsilon": 1, "max_steps": 0},
        {"epsilon": 1, "min_sigma": -1},
        {"epsilon": 1, "min_cohort": 0},
    ],
)
def test_a_policy_that_means_nothing_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy(**{"delta": 1e-3, **values})


def test_a_policy_is_strict_unless_it_says_otherwise() -> None:
    policy = Policy(epsilon=1, delta=1e-3)
    assert (policy.runs, policy.allow_unprotected, policy.noise_seed) == (1, False, None)


def test_a_promise_of_another_adjacency_is_not_added_up(plan: Plan) -> None:
    """Fault it is for: epsilon of exchanged episodes added to epsilon of patients more or less."""
    meta = {"unit": "episode", "episodes": 4}
    episodes = small_plan(learner={"name": "maml", "learning_rate": 0.1, "meta": meta})
    assert episodes.adjacency == "replace"
    large = Policy(epsilon=1e3, delta=1e-2)
    assert objection(large, episodes, account(episodes, rounds=1)) is None
    assert objection(large, episodes, account(plan, rounds=1)) is Reason.OTHER_ADJACENCY
    assert objection(large, plan, account(episodes, rounds=1)) is Reason.OTHER_ADJACENCY


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("allow_unprotected", "yes"),
        ("allow_unprotected", 1),
        ("noise_seed", True),
        ("device", "gpu"),
        ("device", "cuda:x"),
    ],
)
def test_a_value_that_only_looks_right_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        Policy.model_validate({"epsilon": 1.0, "delta": 1e-3, key: value})
