"""The report of new hospitals: what it claims, what it shows, what it survives."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from common.report.fewshot_page import few_shot_html
from common.report.fewshot_tables import hospital_tables
from common.report.fewshot_words import few_shot_verdict, trust
from common.report.figures_fewshot import by_cases
from common.report.page import report_html
from common.report.values import DASH
from tests.example_metrics import example as run_metrics
from tests.page_reader import Reader

HOSTILE = "<script>alert('x')</script> & $x_1$ | \x00 `"
ACCURACY = {"scratch": 0.5, "fedrep+svm": 0.6, "open+svm": 0.62}


def row(accuracy: float, **more: Any) -> dict[str, Any]:
    over = {"scratch": {"difference": accuracy - 0.5, "ci95": 0.02, "episodes": 9}}
    return {"accuracy": accuracy, "ci95": 0.01, "recall": accuracy, "p5": 0.4, "p95": 0.7,
            "episodes": 9, "epsilon": None, "over": over, **more}  # fmt: skip


def example(*sites: str) -> dict[str, Any]:
    rows = {name: row(value) for name, value in ACCURACY.items()}
    rows["scratch"]["over"] = {}
    rows["fedrep+svm"]["epsilon"] = 8.0
    methods = {
        name: {"arm": name.partition("+")[0], "use": "svm", "baseline": "+" not in name,
               "epsilon": rows[name]["epsilon"], "note": "a note"}
        for name in ACCURACY
    }  # fmt: skip
    methods["scratch"] |= {"arm": None, "use": "scratch"}
    held_out = {
        name: {"ways": 3, "classes": 4, "shots": {"5": rows, "20": rows}}
        for name in sites or ("heart", "lung")
    }
    means = {name: row(value) | {"over": {}} for name, value in ACCURACY.items()}
    return {
        "kind": "few labelled cases",
        "title": "Demo",
        "privacy": {"private": True, "epsilon": 8.0, "delta": 1e-5},
        "measure": "accuracy",
        "ways": 3,
        "shots": ["5", "20"],
        "episodes": 9,
        "queries": 15,
        "methods": methods,
        "held_out": held_out,
        "mean": {"5": means, "20": means},
        "remarks": ["A remark."],
    }


def test_the_verdict_is_of_the_most_cases_and_whoever_is_best():
    opening, ends = few_shot_verdict(example("heart"))
    assert "with 20 labelled patients a class" in opening
    assert ends == [
        "at heart, open+svm is best: accuracy 0.620 ± 0.010 of 3 classes "
        "(+0.120 ± 0.020 over scratch)."
    ]
    assert few_shot_verdict({})[1] == []


def test_tables_have_the_epsilon_the_spread_and_the_gain():
    mean, heart, _ = hospital_tables(example())
    assert mean["title"] == "Mean over 2 hospitals, each new in turn"
    assert mean["heads"] == ["Epsilon", "Accuracy", "Recall"]
    assert heart["title"] == "heart: 4 classes, 3 an episode"
    rows = {r["name"]: r["cells"] for r in heart["groups"][1]["rows"]}
    assert rows["fedrep+svm"] == ["8", "0.600 ± 0.010", "0.40 to 0.70", "0.600", "+0.100 ± 0.020"]
    assert rows["scratch"][0] == rows["scratch"][-1] == DASH


def test_how_far_to_trust_it_is_said():
    said = trust(example())
    for text in ("9 episodes", "up to 15 others", "1.96 s / √n", "not about other patients"):
        assert text in said
    assert "all others judge" in trust({"episodes": 9, "queries": "all"})


def test_the_picture_has_a_panel_a_hospital_and_says_its_figures():
    svg = by_cases(example())
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    for text in ("mean over hospitals", "heart", "lung", "open+svm 0.620 at 5, 0.620 at 20"):
        assert text in svg
    assert by_cases(example(), "auc") == ""
    many = by_cases(example(*(f"h{i}" for i in range(20))))
    assert "h10:" in many  # eleven hospitals beside the mean
    assert "h11:" not in many


def test_the_page_is_whole_and_survives_any_name():
    metrics = example(HOSTILE)
    metrics["title"] = metrics["remarks"][0] = HOSTILE
    page = few_shot_html(metrics)
    reader = Reader(page)
    assert "script" not in reader.tags
    assert not [link for link in reader.links if not link.startswith("#")]
    assert len(reader.ids) == len(set(reader.ids))
    assert "A few labelled cases:" in page
    assert few_shot_html(metrics) == page


@pytest.mark.slow
def test_a_comparison_shows_its_new_hospital():
    metrics = run_metrics()
    assert "few labelled cases" not in report_html(metrics)
    page = report_html({**metrics, "fewshot": example("heart")})
    assert "A new hospital with a few labelled cases" in page
    assert "heart: 4 classes, 3 an episode" in page
    numbers = [f"Figure {n}." for n in range(1, 8)]
    assert [text in page for text in numbers].count(True) == page.count("<figure>")
