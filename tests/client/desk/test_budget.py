"""The budget: spent, held on paper and left add up, over studies and over time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.desk.budget import Budget, budget, budget_of
from client.desk.burn_down import burn_down
from client.desk.cohorts import Groups
from client.ledger import Account, Charge, Key, Ledger
from client.policy import Policy
from client.site import CohortConfig, Site
from common.errors import GrandroundsError
from common.plan import Plan
from common.privacy.events import PoissonGaussian, Unprotected
from tests.small_world import hospital, small_plan

POLICY = Policy(epsilon=10.0, delta=0.01)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan()


@pytest.fixture(scope="module")
def other() -> Plan:
    return small_plan(name="other", privacy={"sigma": 8.0})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite", durable=False)
    yield ledger
    ledger.close()


def spend(ledger: Ledger, plan: Plan, *rounds: int) -> None:
    for number in rounds:
        key = Key(plan.digest, "main", "train", number)
        ledger.reserve(key, delta=plan.delta, events=plan.training_prices())


def found(ledger: Ledger, *plans: Plan) -> Budget:
    plans_of = {p.digest: p for p in plans}
    return budget_of(ledger.accounts(), policy=POLICY, plans=plans_of, groups=single(ledger))


def single(ledger: Ledger) -> Groups:
    """Return the groups of a site with a single cohort."""
    cohort = CohortConfig(name="alpha", path=Path("alpha.csv"), declared=40, split_key="07" * 16)
    return Groups(Site(Path(), cohort, POLICY), ledger)


def test_nothing_spent_leaves_everything(ledger: Ledger, plan: Plan) -> None:
    made = found(ledger, plan)
    assert (made.epsilon.spent, made.epsilon.reserved, made.epsilon.left) == (0, 0, 10)
    assert (made.delta.spent, made.delta.left) == (0, 0.01)
    [line] = made.studies
    assert (line.study, line.spent, line.plan, line.reserves) == ("small", 0, plan.epsilon, 0)


def test_a_study_that_has_begun_holds_its_whole_plan(ledger: Ledger, plan: Plan) -> None:
    # Break it once: count what was spent alone.
    spend(ledger, plan, 1)
    made = found(ledger, plan)
    [line] = made.studies
    assert (line.spent, line.train, line.holdout) == (plan.epsilon_after(1), line.spent, 0)
    assert line.spent + line.reserved == pytest.approx(plan.epsilon)
    assert made.epsilon.left == pytest.approx(10 - plan.epsilon)
    assert (line.runs, line.reserves, line.delta) == (1, 1, plan.delta)


def test_a_revoked_study_holds_only_what_it_spent(ledger: Ledger, plan: Plan) -> None:
    spend(ledger, plan, 1, 2)
    made = found(ledger)
    [line] = made.studies
    assert (line.study, line.reserved, line.plan) == ("", 0, None)
    assert made.epsilon.left == 10 - plan.epsilon_after(2)


def test_studies_add_up(ledger: Ledger, plan: Plan, other: Plan) -> None:
    spend(ledger, plan, 1)
    spend(ledger, other, 1, 2)
    made = found(ledger, plan, other)
    assert made.epsilon.spent == plan.epsilon_after(1) + other.epsilon_after(2)
    assert made.delta.spent == plan.delta + other.delta
    assert made.epsilon.left == pytest.approx(10 - plan.epsilon - other.epsilon)
    assert [line.study for line in made.studies] == ["small", "other"]


def test_a_budget_that_is_used_up_is_never_negative(ledger: Ledger, plan: Plan) -> None:
    spend(ledger, plan, 1)
    little = Policy(epsilon=0.1, delta=1e-6)
    made = budget_of(ledger.accounts(), policy=little, plans={}, groups=single(ledger))
    assert (made.epsilon.left, made.delta.left) == (0, 0)


def test_a_value_without_noise_is_infinite_and_none_in_json(ledger: Ledger) -> None:
    ledger.reserve(Key("a" * 64, "main", "train", 1), delta=0.0, events=[Unprotected("train")])
    made = found(ledger)
    assert math.isinf(made.epsilon.spent)
    values = made.to_json()
    assert values["epsilon"] == {"limit": 10.0, "spent": None, "reserved": 0.0, "left": 0.0}
    assert values["studies"][0]["train"] is None
    assert (values["unit"], values["adjacency"]) == ("patient", "add/remove one patient")


def test_studies_of_different_adjacency_are_never_added(ledger: Ledger) -> None:
    accounts = [
        Account(digest * 64, 1e-4, (PoissonGaussian(2.0, 1.0, 1, "train", adjacency=adjacency),))
        for digest, adjacency in (("a", "add_remove"), ("b", "replace"))
    ]
    with pytest.raises(GrandroundsError, match="different adjacency"):
        budget_of(accounts, policy=POLICY, plans={}, groups=single(ledger))


# Over time


def test_the_burn_down_shows_each_study_and_the_sum_after_each_charge(
    ledger: Ledger, plan: Plan, other: Plan
) -> None:
    ledger.record("approval", {"digest": plan.digest})
    spend(ledger, plan, 1)
    spend(ledger, other, 1)
    spend(ledger, plan, 2)
    points = burn_down(ledger.entries(), single(ledger))
    one, two, three = plan.epsilon_after(1), other.epsilon_after(1), plan.epsilon_after(2)
    assert [(p.seq, p.digest, p.study, p.total) for p in points] == [
        (2, plan.digest, one, one),
        (3, other.digest, two, one + two),
        (4, plan.digest, three, three + two),
    ]


def test_a_long_burn_down_is_thinned_but_keeps_its_ends(
    ledger: Ledger, plan: Plan, other: Plan
) -> None:
    spend(ledger, plan, *range(1, 10))
    spend(ledger, other, 1, 2)
    spend(ledger, plan, *range(10, 20))
    points = burn_down(ledger.entries(), single(ledger), most=3)
    assert [p.seq for p in points] == [1, 8, 10, 11, 15, 21]
    assert points[-1].study == plan.epsilon_after(19)


def test_a_reconciliation_burns_too(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "site.sqlite"
    first = Ledger(path)
    spend(first, plan, 1)
    first.close()
    path.with_suffix(".head").unlink()
    ledger = Ledger(path)
    ledger.reconcile([Charge(plan.digest, plan.delta, plan.training_prices(rounds=3))], "restored")
    assert [p.study for p in burn_down(ledger.entries(), single(ledger))] == [
        plan.epsilon_after(1),
        plan.epsilon_after(4),
    ]
    ledger.close()


def test_a_sites_budget_is_plain_values(tmp_path: Path, plan: Plan) -> None:
    site = hospital(tmp_path / "alpha", plan)
    ledger = Ledger(site.ledger_path)
    spend(ledger, plan, 1)
    values = budget(site, ledger)
    assert values["site"] == "alpha"
    assert values["studies"][0]["digest"] == plan.digest
    [point] = values["burn_down"]
    assert point["study"] == point["total"] == plan.epsilon_after(1)
    ledger.close()
