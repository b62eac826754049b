"""The page and what stands beside it: what they say, what they hide, what they survive."""

from __future__ import annotations

import copy
import math
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from common.report.drawing import MAX_PANELS
from common.report.figures_arms import arms
from common.report.figures_forest import forest
from common.report.figures_learning import epsilon_by_round, learning_curves
from common.report.figures_released import calibration, decision_curves
from common.report.model_card import model_card
from common.report.page import report_html
from common.report.tables import published_groups
from common.report.values import DASH
from common.report.words import EXACT, RELEASED
from tests.example_metrics import example
from tests.page_reader import Reader

PICTURES = (learning_curves, arms, epsilon_by_round, calibration, forest, decision_curves)
HOSTILE = "<script>alert('x')</script> & $x_1$ | \x00 `"


@pytest.fixture(scope="module")
def page() -> str:
    """The report of the example."""
    return report_html(example())


def test_page_is_whole_and_fetches_nothing(page: str) -> None:
    read = Reader(page)
    assert not read.open
    assert "script" not in read.tags
    assert "link" not in read.tags
    assert all(link.startswith("#") for link in read.links)
    assert len(read.ids) == len(set(read.ids))
    assert {link[1:] for link in read.links} <= set(read.ids)
    assert "@import" not in page
    assert all(part.startswith("#") for part in page.split("url(")[1:])


def test_every_picture_has_a_text_alternative(page: str) -> None:
    read = Reader(page)
    assert len(read.pictures) == len(PICTURES)
    for picture in read.pictures:
        assert picture["role"] == "img"
        assert set(str(picture["aria-labelledby"]).split()) <= set(read.ids)
    for draw in PICTURES:
        root = ElementTree.fromstring(draw(example()))
        title, description = root[0], root[1]
        assert title.tag.endswith("title")
        assert title.text
        assert description.tag.endswith("desc")
        assert description.text


@pytest.mark.slow
def test_equal_metrics_give_equal_bytes(page: str) -> None:
    assert page == report_html(copy.deepcopy(example()))


def test_labels_tell_exact_from_released(page: str) -> None:
    assert EXACT in page
    assert RELEASED in page
    assert "left out: declared 12, below 50" in page
    assert "grandrounds report RUN_DIR" in page
    assert page.count("9f2c" * 16) == 1


def test_epsilon_never_stands_alone(page: str) -> None:
    for text in (page, model_card(example())):
        for term in ("delta 0.0003", "patient", "add/remove one patient", "PLD (dp-accounting"):
            assert term in text


def test_hostile_text_is_inert() -> None:
    metrics = example({HOSTILE: 300, "北京": 200})
    metrics |= {"title": HOSTILE, "study": HOSTILE, "main_arm": HOSTILE, "versions": {HOSTILE: "1"}}
    metrics["arms"] = {HOSTILE: metrics["arms"]["reptile"] | {"note": HOSTILE}}
    metrics["curves"] = {HOSTILE: metrics["curves"]["reptile"]}
    metrics["privacy"]["statement"] = metrics["split"] = HOSTILE
    metrics["privacy"]["releases"][0]["what"] = metrics["sites"][-1]["name"] = HOSTILE
    metrics["sites"][-1]["status"] = f"left out: {HOSTILE}"
    text = report_html(metrics)
    assert "<script" not in text.lower()
    assert "script" not in Reader(text).tags
    assert "&lt;script&gt;" in text
    assert "<script" not in model_card(metrics)


def test_a_run_without_privacy_says_so() -> None:
    metrics = example()
    metrics["privacy"] = {"private": False, "epsilon": None, "statement": "not private: no noise"}
    text = report_html(metrics)
    assert '<h2 id="privacy">Not private</h2>' in text
    assert RELEASED not in text
    assert "Privacy statement" not in text
    assert "Without privacy" in text
    assert "**Not private.**" in model_card(metrics)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [None, math.inf, math.nan])
def test_private_without_a_finite_epsilon_is_not_private(epsilon: float | None) -> None:
    metrics = example()
    metrics["privacy"]["epsilon"] = epsilon
    assert '<h2 id="privacy">Not private</h2>' in report_html(metrics)


@pytest.mark.slow
def test_sixty_four_hospitals_stay_small_and_readable() -> None:
    metrics = example({f"hospital {i:02d}": 900 - 10 * i for i in range(64)}, rounds=20)
    text = report_html(metrics)
    assert len(text.encode()) < 3_000_000
    assert "Only the 12 largest of 64 hospitals are drawn." in text
    assert "Only the 24 largest of 65 hospitals are drawn." in text
    assert calibration(metrics).count("slope") == 2 * MAX_PANELS


def test_missing_values_become_dashes_and_absent_sections_say_why() -> None:
    def emptied(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: emptied(v) for k, v in value.items()}
        if isinstance(value, list):
            return [emptied(v) for v in value] if value and isinstance(value[0], dict) else []
        return value if isinstance(value, str) else None

    text = report_html(emptied(example()))
    assert DASH in text
    assert "None" not in text
    assert "nan" not in text.replace("hungarian", "")
    assert "No hospital released an AUC." in text
    assert "Learning curves are absent" in text
    assert "None" not in model_card(emptied(example()))


def test_the_smallest_metrics_still_give_a_page() -> None:
    for metrics in ({}, {"sites": [], "arms": {}, "privacy": None, "curves": None}):
        assert "Not private" in report_html(metrics)
        assert model_card(metrics).startswith("# Model card")
        assert [draw(metrics) for draw in PICTURES] == [""] * len(PICTURES)


def test_one_round_one_hospital_one_seed() -> None:
    metrics = example({"only": 300}, rounds=1, seeds=1)
    metrics["pooled_private"] = None
    text = report_html(metrics)
    assert "±" not in text
    assert "the spread is not known" in text
    assert "No random-effects mean" in text
    assert "over one hospital" in text


def test_some_hospitals_released_nothing() -> None:
    metrics = example()
    metrics["sites"][0]["private"] = None
    metrics["sites"][1]["private"] |= {"auc": None, "histogram": None, "net_benefit": []}
    assert len(Reader(report_html(metrics)).pictures) == len(PICTURES)
    assert f"cleveland {DASH}" in forest(metrics)


def published() -> Any:
    row = {"mean_auc": None, "mean_accuracy": 0.735, "weighted_accuracy": 0.795}
    private = {"method": "DP-FedAvg", "epsilon": "1 (spent 4)", **row, "mean_accuracy": 0.702}
    rows = [{"method": "pooled", "epsilon": "", **row}, private]
    return {"source": "FLamby & others", "note": "One fixed split.", "rows": rows}


def test_published_figures_stand_under_our_own() -> None:
    groups = published_groups(example() | {"published": published()})
    (ours, own), (source, others) = groups
    assert (ours, source) == ("This run", "FLamby & others")
    assert own[0][:4] == ["reptile", "1", "0.840 ± 0.035", "0.811 ± 0.018"]
    assert [row[0] for row in own[:2]] == ["reptile", "reptile, adapted"]
    assert others == [
        ["pooled", DASH, DASH, "0.735", "0.795"],
        ["DP-FedAvg", "1 (spent 4)", DASH, "0.702", "0.795"],
    ]
    page = report_html(example() | {"published": published()})
    assert "FLamby &amp; others" in page
    assert "One fixed split." in page


def test_a_run_without_published_figures_has_no_such_section(page: str) -> None:
    assert "Beside published figures" not in page


def test_remarks_stand_on_the_page() -> None:
    assert "one &lt;algorithm&gt;" in report_html(example() | {"remarks": ["one <algorithm>"]})


def deployed() -> Any:
    """What a run over real hospitals knows: no arm, no exact figure."""
    metrics = example() | {"engine": "deployment", "arms": {}, "curves": {}}
    for site in metrics["sites"]:
        site |= {"arms": {}, "train_patients": None, "holdout_patients": None}
    silent = {"round": 2, "phase": "train", "site": "va", "status": "silent", "reason": "no answer"}
    return metrics | {"missed": [silent]}


def test_a_run_over_real_hospitals_claims_only_what_was_released() -> None:
    page, card = report_html(deployed()), model_card(deployed())
    for text in (page, card):
        assert "With epsilon 1 at delta 0.0003, reptile trained a shared model" in text
        assert "its released AUC, pooled over hospitals, is 0.82 (0.74 to 0.88)" in text
        assert "exact; would not leave" not in text
        assert "These figures are exact" not in text
    assert "Arms compared" not in page
    assert "silent: no answer" in page
    assert "No hospital missed a round." in report_html(deployed() | {"missed": []})


def test_without_a_pooled_auc_each_readable_one_is_named() -> None:
    metrics = deployed() | {"pooled_private": None}
    assert "at cleveland" in report_html(metrics)
    for site in metrics["sites"]:
        site["private"] = None
    assert "no hospital released an AUC that its noise leaves readable" in report_html(metrics)


def test_grades_have_a_kappa_in_every_table_of_arms_and_others_have_none(page: str) -> None:
    assert "Kappa" not in page
    assert "Kappa" not in model_card(example())
    metrics = example()
    for arm in metrics["arms"].values():
        arm["mean_kappa"], arm["adapted"]["mean_kappa"] = 0.41, 0.62
    graded = report_html(metrics)
    assert graded.count('<th scope="col">Kappa</th>') == 2
    assert graded.count("<td>0.410</td>") == graded.count("<td>0.620</td>") == len(metrics["arms"])
    assert "Kappa, adapted" in model_card(metrics)
    assert not Reader(graded).open


def test_similar_cases_are_a_table_of_their_own_beside_the_inputs_and_chance(page: str) -> None:
    assert "Similar cases" not in page
    row = {"distance": "cosine", "hospitals": 3, "map": 0.61, "chance": 0.4}
    row |= {"precision": {"1": 0.7, "5": None}, "recall": {"1": 0.1, "5": 0.3}}
    retrieval = {"ks": [1, 5], "most": {"gallery": 2000, "queries": 500}}
    retrieval |= {"inputs": row, "arms": {HOSTILE: row | {"map": 0.83}}}
    shown = report_html(example() | {"retrieval": retrieval})
    section = shown.partition("Similar cases")[2]
    assert "no body: the inputs themselves" in section
    cells = ["0.700", DASH, "0.100", "0.300", "0.830", "0.400"]
    assert "".join(f"<td>{cell}</td>" for cell in cells) in section
    assert "<b>Table 4.</b>" in section
    assert EXACT in section
    assert "<script" not in shown
    assert not Reader(shown).open
