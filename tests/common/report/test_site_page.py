"""A hospital's own report: what it says, what it shouts, what it survives."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from common.report.figures_site import burn_down, calibration_here
from common.report.site_page import KEPT, alarms, budget_line, site_html
from tests.example_site import example
from tests.page_reader import Reader

HOSTILE = "<script>alert('x')</script> & $x_1$ | \x00 `"


@pytest.fixture(scope="module")
def page() -> str:
    return site_html(example())


def test_page_is_whole_and_fetches_nothing(page: str) -> None:
    read = Reader(page)
    assert not read.open
    assert not {"script", "link"} & set(read.tags)
    assert all(link.startswith("#") for link in read.links)
    assert len(read.ids) == len(set(read.ids))
    assert len(read.pictures) == 2


def test_equal_values_give_equal_pages(page: str) -> None:
    assert site_html(example()) == page


def test_exact_figures_are_marked_as_not_to_leave(page: str) -> None:
    assert page.count(KEPT) == 2  # the table and the picture
    assert "not to leave the hospital" in page
    assert "do not pass on" in page
    assert "For research; not for clinical use" in page


def test_budget_is_said_with_what_is_held(page: str) -> None:
    said = budget_line(example())
    # 3.5 spent, 5 held in all, of 8.
    assert said == (
        "A patient of cleveland has spent at most epsilon 3.5 of 8 (at delta 0.0002), "
        "in 2 studies; 1.5 more is held for what was begun; 3 is left."
    )
    assert said in page


def test_a_refusal_and_a_revoked_study_are_shown(page: str) -> None:
    assert "privacy budget would be exceeded (times: 3)" in page
    assert "not approved" in page
    assert "12 of 12" in page


def test_nothing_is_alarming_where_nothing_is_wrong(page: str) -> None:
    assert alarms(example()) == []
    assert "Attention" not in page
    assert "17 entries are unedited" in page


def test_seeded_noise_is_shouted_about() -> None:
    page = site_html(example(noise_seed=0))  # 0 is a seed
    assert "SEEDED NOISE: policy.toml has noise_seed = 0" in page


def test_a_ledger_that_does_not_verify_is_shouted_about() -> None:
    values = example(ledger={"ok": False, "entries": 17, "what": "entry 9 was edited"})
    page = site_html(values)
    assert "THE LEDGER DOES NOT VERIFY: entry 9 was edited" in page
    assert "does not verify" in page
    assert "unedited" not in page


def test_a_ledger_that_is_behind_is_shouted_about() -> None:
    values = example(ledger={"ok": True, "entries": 17, "what": "", "behind": "it was restored"})
    assert "THE LEDGER IS BEHIND: it was restored" in site_html(values)


def test_a_study_without_a_guarantee_has_no_bound() -> None:
    studies = example()["studies"]
    studies[0]["epsilon"] = None
    none = {"epsilon": None, "delta": 0.0}
    page = site_html(example(studies=studies, spent=none, held=none))
    assert "is not bounded" in page
    assert "no guarantee" in page


def test_a_new_site_has_an_empty_report() -> None:
    nothing = {"epsilon": 0.0, "delta": 0.0}
    values = example(spending=[], studies=[], models=[], spent=nothing, held=nothing)
    page = site_html(values)
    for said in (
        "No patient of cleveland has spent anything of epsilon 8.",
        "Nothing has been spent yet.",
        "No study has been approved.",
        "No model has been delivered yet.",
    ):
        assert said in page


def test_texts_of_a_coordinator_are_escaped() -> None:
    values = example(site=HOSTILE)
    values["studies"][0]["title"] = HOSTILE
    values["studies"][0]["refusals"] = {HOSTILE: 1}
    values["models"][0] |= {"title": HOSTILE, "run": HOSTILE, "study": HOSTILE}
    values["spending"][0]["study"] = HOSTILE
    read = Reader(site_html(values))
    assert "script" not in read.tags


def test_pictures_speak() -> None:
    svg = burn_down(example())
    ElementTree.fromstring(svg)
    assert "all studies together is 3.500" in svg
    assert "limit is 8.000" in svg
    assert "heart as received: slope 0.90" in calibration_here(example())


def test_a_picture_of_one_moment_has_a_width() -> None:
    at = {"at": "2026-01-10T08:00:00+00:00", "study": "heart", "epsilon": 1.0, "cohorts": "main"}
    ElementTree.fromstring(burn_down(example(spending=[at])))


def test_no_picture_where_there_is_nothing_to_draw() -> None:
    unbounded = {
        "at": "2026-01-10T08:00:00+00:00",
        "study": "heart",
        "epsilon": None,
        "cohorts": "main",
    }
    assert burn_down(example(spending=[unbounded])) == ""
    assert calibration_here(example(models=[])) == ""


def test_a_study_of_grades_shows_its_kappa(page: str) -> None:
    assert "Kappa" not in page
    values = example()
    values["models"][0]["judged"]["adapted"]["figures"]["kappa"] = 0.57
    graded = site_html(values)
    assert '<th scope="col">Kappa</th>' in graded
    assert "<td>0.570</td>" in graded
    assert not Reader(graded).open
