"""Several cohorts of one site: whose studies add up, and that no later word parts them again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.desk.administration import OwnDesk, opened, perform_locally
from client.desk.cohorts import Groups, cohort_of, is_as_approved, site_of
from client.desk.opinion import judge
from client.ledger import Key
from client.site import load_site
from common.errors import GrandroundsError, SiteError
from common.plan import Plan
from tests.small_world import add_cohort, change_cohort, csv_text, made_site, small_plan

PLAN = small_plan()
OTHER = small_plan(name="other")
THIRD = small_plan(name="third")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[OwnDesk]:
    with opened(made_site(tmp_path / "alpha", epsilon=20.0)) as desk:
        yield desk


def approve(desk: OwnDesk, plan: Plan, cohort: str | None = None) -> dict[str, Any]:
    values = {"study": plan.study.rules(), "by": "Dr A. Jones", "cohort": cohort}
    return perform_locally(desk, "approve", values)


def charge(desk: OwnDesk, plan: Plan) -> None:
    key = Key(plan.digest, "main", "train", 1)
    desk.ledger.reserve(key, delta=plan.delta, events=plan.training_prices())


def paid(desk: OwnDesk, cohort: str) -> set[str]:
    """Return the names of the studies that count for a cohort's patients."""
    groups = Groups(load_site(desk.folder), desk.ledger)
    names = {plan.digest: plan.study.name for plan in (PLAN, OTHER, THIRD)}
    return {names[a.digest] for a in groups.counted(desk.ledger.accounts(), cohort=cohort)}


def why(desk: OwnDesk, cohort: str) -> str:
    return Groups(load_site(desk.folder), desk.ledger).shared_because(cohort) or ""


def both_charged(desk: OwnDesk, **values: Any) -> None:
    """Charge `small` to the main cohort and `other` to a cohort `ward`."""
    add_cohort(desk.folder, "ward", **values)
    approve(desk, PLAN)
    approve(desk, OTHER, "ward")
    charge(desk, PLAN)
    charge(desk, OTHER)


def test_studies_on_cohorts_of_one_site_add_up(desk: OwnDesk) -> None:
    both_charged(desk)
    assert paid(desk, "main") == paid(desk, "ward") == {"small", "other"}


def test_a_disjoint_cohort_pays_for_its_own_studies_alone(desk: OwnDesk) -> None:
    both_charged(desk, disjoint=True)
    assert (paid(desk, "main"), paid(desk, "ward")) == ({"small"}, {"other"})
    found = perform_locally(desk, "budget", {})
    lines = {line["cohort"]: line for line in found["cohorts"]}
    assert lines["ward"]["together"] == ["ward"]
    for line in lines.values():
        assert line["epsilon"]["left"] == pytest.approx(20 - PLAN.epsilon)


def test_a_disjoint_cohort_takes_nothing_out_of_the_others(desk: OwnDesk) -> None:
    add_cohort(desk.folder, "ward", disjoint=True)
    add_cohort(desk.folder, "day")
    for plan, cohort in ((PLAN, "main"), (OTHER, "ward"), (THIRD, "day")):
        approve(desk, plan, cohort)
        charge(desk, plan)
    assert paid(desk, "day") == paid(desk, "main") == {"small", "third"}
    assert paid(desk, "ward") == {"other"}


# No later word parts what was charged together


def test_marking_a_cohort_disjoint_after_it_was_charged_frees_nothing(desk: OwnDesk) -> None:
    # Break it once: ask cohort.toml alone.
    both_charged(desk)
    change_cohort(desk.folder, "ward", disjoint=True)
    assert paid(desk, "main") == paid(desk, "ward") == {"small", "other"}
    assert "while it was not marked disjoint" in why(desk, "ward")
    approve(desk, OTHER)  # nor does another approval
    approve(desk, THIRD, "ward")
    assert paid(desk, "main") == {"small", "other"}


def test_before_anything_was_charged_a_mistake_can_be_mended(desk: OwnDesk) -> None:
    add_cohort(desk.folder, "ward")
    approve(desk, OTHER, "ward")
    change_cohort(desk.folder, "ward", disjoint=True)
    assert "while it was not marked disjoint" in why(desk, "ward")  # what is approved may begin
    approve(desk, OTHER)
    charge(desk, OTHER)
    assert (paid(desk, "main"), why(desk, "ward")) == (set(), "")


def test_taking_disjoint_back_adds_up_what_was_apart(desk: OwnDesk) -> None:
    both_charged(desk, disjoint=True)
    change_cohort(desk.folder, "ward", disjoint=False)
    assert paid(desk, "main") == paid(desk, "ward") == {"small", "other"}


def test_moving_a_charged_cohort_to_another_path_frees_nothing(desk: OwnDesk) -> None:
    both_charged(desk, disjoint=True)
    there = load_site(desk.folder).config.cohorts["ward"].path
    elsewhere = there.with_name("new.csv")
    elsewhere.write_text(csv_text(seed=2))
    change_cohort(desk.folder, "ward", path=str(elsewhere))
    assert paid(desk, "main") == {"small", "other"}
    assert "another path" in why(desk, "ward")
    there.unlink()
    there.symlink_to(elsewhere)  # it is the same place by another name, and the disks were moved
    assert paid(desk, "main") == {"small"}


def test_another_name_for_a_charged_cohort_frees_nothing(desk: OwnDesk) -> None:
    both_charged(desk, disjoint=True)
    ward = load_site(desk.folder).config.cohorts["ward"].path
    change_cohort(desk.folder, "ward")
    assert paid(desk, "main") == {"small", "other"}
    assert "no longer names it" in why(desk, "ward")
    change_cohort(desk.folder, "new", path=str(ward), declared=40, disjoint=True)
    assert paid(desk, "new") == {"small", "other"}
    assert "'ward' is or was at the same path" in why(desk, "new")


def test_the_main_cohorts_old_patients_are_no_new_cohort(desk: OwnDesk, tmp_path: Path) -> None:
    approve(desk, PLAN)
    charge(desk, PLAN)
    change_cohort(desk.folder, "main", path=str(tmp_path / "other.csv"))
    old = {"path": str(tmp_path / "alpha.csv"), "declared": 40, "disjoint": True}
    change_cohort(desk.folder, "ward", **old)
    assert paid(desk, "ward") == {"small"}


def test_what_was_reconciled_counts_for_every_cohort(desk: OwnDesk) -> None:
    # The lost entries may have held an approval for another cohort.
    both_charged(desk, disjoint=True)
    desk.ledger.check_seen(OTHER.digest, 5)
    perform_locally(desk, "reconcile", {"by": "x"})
    assert paid(desk, "main") == paid(desk, "ward") == {"small", "other"}


# What an approval covers


def test_an_approval_says_in_the_ledger_which_cohort_it_is_for(desk: OwnDesk) -> None:
    data = add_cohort(desk.folder, "ward", disjoint=True, declared=30)
    found = approve(desk, OTHER, "ward")
    body = desk.ledger.entries("approval")[-1].body
    assert found["cohort"] == body["cohort"] == cohort_of(desk.ledger, OTHER.digest) == "ward"
    assert (body["path"], body["disjoint"], body["charged"]) == (str(data), True, False)
    record = Path(found["record"]).read_text()
    for words in ("Cohort: ward", "declared size", "30 patients", "studies of cohort ward"):
        assert words.lower() in record.lower()
    assert "vouches that no patient" in record
    view = site_of(load_site(desk.folder), desk.ledger, OTHER.digest)
    assert (view.source.path, view.source.declared, view.cohort.name) == (data, 30, "alpha")


@pytest.mark.parametrize(
    ("change", "remains"),
    [
        ({"declared": 50}, True),
        ({"disjoint": True}, False),
        ({"path": "elsewhere.csv"}, False),
    ],
)
def test_an_approval_ends_with_the_terms_it_was_given_on(
    desk: OwnDesk, change: dict[str, Any], remains: bool
) -> None:
    add_cohort(desk.folder, "ward")
    approve(desk, OTHER, "ward")
    change_cohort(desk.folder, "ward", **change)
    view = site_of(load_site(desk.folder), desk.ledger, OTHER.digest)
    assert is_as_approved(view, desk.ledger, OTHER.digest) is remains
    (row,) = perform_locally(desk, "status", {})["studies"]
    assert (row["cohort"], row["cohort_changed"] is False) == ("ward", remains)


def test_a_study_that_was_charged_stays_with_its_cohort(desk: OwnDesk) -> None:
    # Break it once: let the newest approval have it, and the ward's charge is the main cohort's.
    add_cohort(desk.folder, "ward", disjoint=True)
    approve(desk, OTHER)
    approve(desk, OTHER, "ward")  # nothing was charged yet
    charge(desk, OTHER)
    with pytest.raises(SiteError, match=r"--cohort is 'main'.*cohort 'ward'") as error:
        approve(desk, OTHER, "main")
    assert "--cohort ward" in error.value.remedy
    assert approve(desk, OTHER)["cohort"] == "ward"  # the one it has
    assert (paid(desk, "main"), paid(desk, "ward")) == (set(), {"other"})


def test_the_policy_is_asked_of_those_who_would_pay(desk: OwnDesk) -> None:
    both_charged(desk, disjoint=True)
    add_cohort(desk.folder, "day")
    site = load_site(desk.folder)
    after = {
        name: judge(site.view(name), desk.ledger, THIRD, runs=1).after[0]
        for name in ("main", "ward", "day")
    }
    # Each holds one begun study on paper besides the third; the day's adds up with the main's.
    assert after["main"] == after["ward"] == after["day"] == pytest.approx(2 * PLAN.epsilon)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"declared": 0}, "cohorts.ward.declared is 0"),
        ({"disjoint": "yes"}, "cohorts.ward.disjoint is 'yes'"),
        ({"split_key": "00" * 16}, "unknown key 'cohorts.ward.split_key'"),
        ({"disjoint": True, "path": "alpha.csv"}, "cohorts 'main' and 'ward' are both at"),
    ],
)
def test_a_malformed_cohort_is_named(desk: OwnDesk, values: dict[str, Any], named: str) -> None:
    if "path" in values:
        values = {**values, "path": str(desk.folder.parent / values["path"])}
    add_cohort(desk.folder, "ward", **values)
    with pytest.raises(GrandroundsError) as error:
        load_site(desk.folder)
    assert named in error.value.message
    assert str(desk.folder / "cohort.toml") in error.value.message
    assert error.value.remedy


def test_cohorts_of_one_file_are_composed(desk: OwnDesk) -> None:
    both_charged(desk)
    change_cohort(desk.folder, "ward", path=str(desk.folder.parent / "alpha.csv"))
    assert paid(desk, "main") == {"small", "other"}


def test_main_is_no_name_for_another_cohort(desk: OwnDesk) -> None:
    path = desk.folder / "cohort.toml"
    path.write_text(path.read_text() + '\n[cohorts.main]\npath = "x.csv"\ndeclared = 40\n')
    with pytest.raises(GrandroundsError, match="'main' is the cohort at the top"):
        load_site(desk.folder)


def test_an_unknown_cohort_is_named_with_those_there_are(desk: OwnDesk) -> None:
    add_cohort(desk.folder, "ward")
    with pytest.raises(SiteError, match=r"cohort 'word' is not in .*main, ward") as error:
        approve(desk, OTHER, "word")
    assert "[cohorts.word]" in error.value.remedy
    assert desk.ledger.entries("approval") == []


def test_a_cohort_that_is_gone_from_the_file_leaves_the_desk_working(desk: OwnDesk) -> None:
    both_charged(desk, disjoint=True)
    change_cohort(desk.folder, "ward")
    rows = {row["study"]: row for row in perform_locally(desk, "status", {})["studies"]}
    assert "cohort 'ward' is not in" in rows["other"]["cohort_changed"]
    assert rows["small"]["cohort_changed"] is False
    lines = {line["cohort"]: line for line in perform_locally(desk, "budget", {})["cohorts"]}
    assert lines["ward"]["shared"] == "cohort.toml no longer names it"
