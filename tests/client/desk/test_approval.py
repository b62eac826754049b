"""Approving and revoking a study: what is refused, what is written, and what a board reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.desk.administration import OwnDesk, opened, perform, perform_locally
from client.desk.approval import approve
from client.desk.changes import changed_rules
from client.desk.opinion import judge
from client.ledger import Key, Ledger
from client.policy import Policy, Reason
from client.site import load_site
from common.errors import DataError, GrandroundsError, SiteError
from common.plan import Plan, read_plan
from tests.small_world import csv_text, made_site, small_plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[OwnDesk]:
    with opened(made_site(tmp_path / "alpha")) as desk:
        yield desk


def allow(desk: OwnDesk, **changes: Any) -> None:
    """Write the site's policy anew."""
    from client.policy.template import policy_text

    values = {"epsilon": 5.0, "delta": 0.0125, **changes}
    (desk.folder / "policy.toml").write_text(policy_text(Policy(**values)))


def ask(desk: OwnDesk, plan: Plan, **values: Any) -> dict[str, Any]:
    rules = plan.study.rules()
    return perform_locally(desk, "approve", {"study": rules, "by": "Dr A. Jones", **values})


def written(folder: Path) -> set[str]:
    return {
        str(p.relative_to(folder))
        for n in ("approved", "approvals")
        for p in (folder / n).iterdir()
    }


def spend(desk: OwnDesk, plan: Plan, *, rounds: int, run: str = "main") -> None:
    key = Key(plan.digest, run, "train", 1)
    desk.ledger.reserve(key, delta=plan.delta, events=plan.training_prices(rounds=rounds))


def test_an_approval_is_a_plan_a_record_and_an_entry(desk: OwnDesk, plan: Plan) -> None:
    found = ask(desk, plan)
    assert (found["study"], found["digest"], found["runs"]) == ("small", plan.digest, 1)
    assert (found["patients"], found["epsilon"]) == (40, plan.epsilon)
    assert found["left"]["epsilon"] == pytest.approx(5.0 - plan.epsilon)
    assert load_site(desk.folder).approved(plan.digest) == plan
    assert read_plan(desk.folder / "approvals" / f"{plan.digest}.toml") == plan
    cohort, approval = desk.ledger.entries()
    assert (cohort.kind, approval.kind) == ("cohort", "approval")
    assert approval.body["digest"] == plan.digest
    assert (approval.body["by"], approval.body["runs"]) == ("Dr A. Jones", 1)


def test_the_record_tells_a_board_who_when_what_and_at_which_cost(
    desk: OwnDesk, plan: Plan
) -> None:
    record = Path(ask(desk, plan)["record"]).read_text()
    for part in ("Dr A. Jones", "alpha", plan.digest, "Runs covered: 1", "epsilon 1.725", "20"):
        assert part in record
    assert "declared 40" in record  # and no count of the patients themselves
    assert "40 fit" not in record


def test_the_sites_own_noise_is_compiled_here_whatever_the_coordinator_says(
    desk: OwnDesk,
) -> None:
    plan = small_plan(privacy={"sigma": None, "epsilon": 2.0})
    weak = replace(plan, sigma=plan.sigma / 2)
    assert ask(desk, weak)["digest"] == plan.digest


OBJECTIONS: list[tuple[dict[str, Any], Reason, str]] = [
    ({"epsilon": 1.0}, Reason.BUDGET, "epsilon is at most 1"),
    ({"delta": 1e-4}, Reason.BUDGET, "delta is at most 0.0001"),
    ({"study_epsilon": 1.0}, Reason.STUDY_BUDGET, "study_epsilon"),
    ({"min_sigma": 5.0}, Reason.SIGMA_TOO_SMALL, "min_sigma"),
    ({"max_steps": 5}, Reason.TOO_MANY_STEPS, "6 a run"),
    ({"learners": ["fedavg"]}, Reason.LEARNER_NOT_ALLOWED, "reptile"),
    ({"models": ["mlp"]}, Reason.MODEL_NOT_ALLOWED, "logistic"),
    ({"releases": ["evaluate"]}, Reason.RELEASE_NOT_ALLOWED, "releases"),
    ({"min_cohort": 50}, Reason.COHORT_TOO_SMALL, "min_cohort"),
]


@pytest.mark.parametrize(("policy", "reason", "named"), OBJECTIONS, ids=lambda x: str(x)[:40])
def test_what_the_policy_forbids_cannot_be_approved(
    desk: OwnDesk, plan: Plan, policy: dict[str, Any], reason: Reason, named: str
) -> None:
    allow(desk, **policy)
    with pytest.raises(SiteError) as caught:
        ask(desk, plan)
    assert str(reason) in caught.value.message
    assert named in caught.value.message
    assert caught.value.remedy
    assert written(desk.folder) == set()
    assert desk.ledger.entries() == []


def test_a_policy_that_bars_the_evaluation_alone_lets_a_study_be_approved(
    desk: OwnDesk, plan: Plan
) -> None:
    allow(desk, releases=["train"])
    assert "evaluate will be refused" in Path(ask(desk, plan)["record"]).read_text()


def test_hours_do_not_matter_to_an_approval(desk: OwnDesk, plan: Plan) -> None:
    allow(desk, hours="03:00-03:01")
    assert ask(desk, plan)["digest"] == plan.digest


@pytest.mark.parametrize("patients", [19, 20])
def test_the_true_count_of_patients_is_held_to_the_minimum(
    tmp_path: Path, plan: Plan, patients: int
) -> None:
    # Declared 40 passes either way: what is checked here is told to the hospital alone.
    folder = made_site(tmp_path / "alpha", text=csv_text(patients=patients))
    rules = plan.study.rules()
    if patients == 20:
        assert perform(folder, "approve", study=rules)["patients"] == 20
    else:
        with pytest.raises(DataError, match="19 patients"):
            perform(folder, "approve", study=rules)
        assert written(folder) == set()


def test_patients_that_do_not_fit_the_study_stop_its_approval(desk: OwnDesk) -> None:
    other = small_plan(cohort={"label": {"column": "outcome", "classes": ["well", "ill"]}})
    with pytest.raises(DataError, match="outcome"):
        ask(desk, other)
    assert written(desk.folder) == set()


def test_an_approval_for_more_runs_than_the_policy_lets_is_refused(
    desk: OwnDesk, plan: Plan
) -> None:
    with pytest.raises(SiteError, match="no further run"):
        ask(desk, plan, runs=2)
    allow(desk, epsilon=2 * plan.epsilon, runs=2)
    with pytest.raises(SiteError, match="--runs is 0"):
        ask(desk, plan, runs=0)
    assert ask(desk, plan, runs=1)["runs"] == 1
    assert ask(desk, plan)["runs"] == 2


def test_every_run_approved_must_fit_the_budget(desk: OwnDesk, plan: Plan) -> None:
    allow(desk, epsilon=1.1 * plan.epsilon, runs=2)
    with pytest.raises(SiteError, match="budget"):
        ask(desk, plan)
    assert ask(desk, plan, runs=1)["runs"] == 1


def test_what_other_studies_hold_is_not_there_to_be_approved(desk: OwnDesk, plan: Plan) -> None:
    other = small_plan(name="other")
    allow(desk, epsilon=plan.epsilon + 0.99 * other.epsilon)
    ask(desk, plan)
    spend(desk, plan, rounds=1)
    with pytest.raises(SiteError, match="budget"):
        ask(desk, other)
    perform_locally(desk, "revoke", {"study": "small"})  # what was not spent is free again
    assert ask(desk, other)["study"] == "other"


def test_judging_shows_the_budget_before_and_after(desk: OwnDesk, plan: Plan) -> None:
    site = load_site(desk.folder)
    fresh = judge(site, desk.ledger, plan, runs=1)
    assert fresh.objections == ()
    assert (fresh.spent, fresh.after) == ((0.0, 0.0), (plan.epsilon, plan.delta))
    names = {rule.name for rule in fresh.rules}
    assert {"epsilon", "delta", "runs", "min_sigma", "max_steps", "learners", "models"} <= names
    assert desk.ledger.entries() == []


# Upgrades


def test_an_upgrade_asks_for_approval_again_and_says_which_rules_are_new(
    desk: OwnDesk, plan: Plan
) -> None:
    assert ask(desk, plan)["changes"] == []
    more = small_plan(rounds={"count": 4})
    changes = ask(desk, more)["changes"]
    assert "rounds.count: 3 -> 4" in changes
    assert changed_rules(load_site(desk.folder), more) == []  # approved by now


def test_an_approval_of_an_earlier_version_is_compared_rule_by_rule(
    desk: OwnDesk, plan: Plan
) -> None:
    # As an earlier program wrote it, which did not know a rule that this one has.
    ask(desk, plan)
    path = desk.folder / "approved" / f"{plan.digest}.toml"
    old = path.with_name(f"{'0' * 64}.toml")
    text = path.read_text()
    assert "bins = 4\n" in text
    path.unlink()
    old.write_text(text.replace("bins = 4\n", ""))
    site = load_site(desk.folder)
    assert site.plans() == {}
    assert list(site.stale()) == ["0" * 64]
    assert changed_rules(site, plan) == ["evaluation.bins: - -> 4"]
    assert perform_locally(desk, "status", {})["stale"].keys() == {"0" * 64}


def test_a_study_of_another_name_is_no_upgrade(desk: OwnDesk, plan: Plan) -> None:
    ask(desk, plan)
    assert ask(desk, small_plan(name="other"))["changes"] == []


# Revoking


@pytest.mark.parametrize("how", ["name", "digest", "beginning"])
def test_a_revoked_study_is_gone_and_its_spending_stays(
    desk: OwnDesk, plan: Plan, how: str
) -> None:
    ask(desk, plan)
    spend(desk, plan, rounds=2)
    text = {"name": "small", "digest": plan.digest, "beginning": plan.digest[:6]}[how]
    assert perform_locally(desk, "revoke", {"study": text})["digest"] == plan.digest
    assert load_site(desk.folder).plans() == {}
    assert desk.ledger.entries("revocation")[0].body["digest"] == plan.digest
    assert [a.digest for a in desk.ledger.accounts() if a.events] == [plan.digest]
    assert (desk.folder / "approvals" / f"{plan.digest}.md").is_file()


def test_revoking_names_what_it_cannot_find_or_tell_apart(desk: OwnDesk, plan: Plan) -> None:
    ask(desk, plan)
    ask(desk, small_plan(rounds={"count": 2}))
    for text, told in (
        ("other", "no approved study"),
        ("", "no approved study"),
        ("small", "2 times"),
    ):
        with pytest.raises(SiteError, match=told) as caught:
            perform_locally(desk, "revoke", {"study": text})
        assert plan.digest[:12] in caught.value.message
    assert len(load_site(desk.folder).plans()) == 2


def test_a_study_that_is_none_is_refused(desk: OwnDesk) -> None:
    with pytest.raises(GrandroundsError, match=r"x\.toml: .* is missing"):
        perform_locally(desk, "approve", {"study": {"name": "x"}, "origin": "x.toml"})


def test_a_crash_before_the_plan_is_written_leaves_the_study_unapproved(
    desk: OwnDesk, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    import client.desk.approval

    def crash(*args: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(client.desk.approval, "write_plan", crash)
    with pytest.raises(OSError, match="No space"):
        ask(desk, plan)
    assert load_site(desk.folder).plans() == {}


def test_a_simulated_site_without_a_secret_is_approved_without_a_digest_of_its_files(
    tmp_path: Path, plan: Plan
) -> None:
    from tests.small_world import hospital

    site = hospital(tmp_path / "alpha", small_plan(name="other"))
    ledger = Ledger(":memory:")
    approve(replace(site, policy=Policy(epsilon=5, delta=1e-2)), ledger, plan, by="x")
    assert [e.kind for e in ledger.entries()] == ["approval"]
    ledger.close()
