"""The page of an audit: the verdict, every test, the officer's terms, and nothing fetched."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from common.report.audit_page import audit_html, audit_verdict
from tests.page_reader import Reader

HOSTILE = "<script>alert('x')</script> & $x_1$"
_AT = (np.arange(199) + 1) / 200

ENGINE: dict[str, Any] = {
    "verdict": "not refuted",
    "claimed_epsilon": 3.5,
    "delta": 1e-5,
    "lower_bound_epsilon": {"C canaries: sum, f-DP": 1.2, "C canaries: sum, one run": 0.0},
    "parametric_epsilon": {"low": 3.4, "high": 3.7},
    "ceiling_epsilon": 7.8,
    "tests": [
        {"name": "A one record: clip", "passed": True, "statistic": 1.0, "threshold": 1.001,
         "detail": "a patient moved the sum by 1 C"},
        {"name": "B one record: scale", "passed": True, "statistic": 0.01, "threshold": 0.05,
         "detail": "fine"},
    ],
    "kind": "engine",
    "title": "engine, mlp, reptile",
    "mechanism": {"model": "mlp", "learner": "reptile", "device": "cpu", "sampling_rate": 0.05},
    "false_alarm": 0.01,
    "canaries": 1000,
    "seed": 0,
    "privacy": {
        "private": True, "epsilon": 3.5, "delta": 1e-5, "unit": "patient",
        "adjacency": "add/remove one patient", "accountant": "PLD", "sampling_rate": 0.05,
        "noise": "AES-256 in counter mode", "statement": "(3.5, 1e-05)-differential privacy",
        "releases": [{"what": "weight delta", "part": "train", "count": 25, "sigma": 1.0,
                      "epsilon": 3.5}],
    },
    "evidence": {
        "A one record": [{"patient": "NaN", "others": 5, "change": 0.0},
                         {"patient": "normal", "others": 0, "change": None}],
        "B one record, secure": {"at": _AT.tolist(), "values": norm.ppf(_AT).tolist(), "count": 9},
        "S secure": {"sizes": [20.0, 25.0, 31.0], "patients": 500},
        "C": {"there": [0.1, 0.4, 1.0], "not there": [-0.3, 0.2, 0.1], "guesses": 2, "right": {}},
    },
}  # fmt: skip

LEDGER: dict[str, Any] = {
    **{k: ENGINE[k] for k in ("delta", "tests", "privacy")},
    "verdict": "not refuted",
    "claimed_epsilon": 8.0,
    "lower_bound_epsilon": {},
    "parametric_epsilon": {"low": 3.0, "high": 3.01},
    "ceiling_epsilon": None,
    "kind": "ledger",
    "title": "Ledger of cleveland",
    "folder": "sites/cleveland",
    "studies": [
        {"name": "heart ab12", "digest": "ab" * 32, "delta": 1e-4, "claimed": 3.0, "said": 3.0,
         "pld": 3.0, "prv": 3.01, "sums": 30, "planned": 30},
        {"name": "old cd34", "digest": "cd" * 32, "delta": 0.0, "claimed": None, "said": None,
         "pld": None, "prv": None, "sums": 2, "planned": None},
    ],
    "remarks": ["one release was paid for and not answered"],
}  # fmt: skip


def changed(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return copy.deepcopy({**values, **changes})


@pytest.fixture(scope="module")
def engine_page() -> str:
    return audit_html(ENGINE)


@pytest.mark.parametrize(("values", "pictures"), [(ENGINE, 5), (LEDGER, 1)])
def test_page_is_whole_and_fetches_nothing(engine_page, values, pictures):
    page = engine_page if values is ENGINE else audit_html(values)
    read = Reader(page)
    assert not read.open
    assert not {"script", "link"} & set(read.tags)
    assert all(link.startswith("#") for link in read.links)
    assert len(read.ids) == len(set(read.ids))
    assert len(read.pictures) == pictures
    assert audit_html(values) == page


def test_the_statement_has_the_officers_terms(engine_page):
    page = engine_page
    terms = ("Unit", "Adjacency", "Trust model", "Epsilon", "Delta", "Accountant")
    terms += ("Sampling assumption", "Releases this epsilon covers", "Noise generator")
    assert not [term for term in terms if term not in page]
    assert "Poisson, 0.05" in page
    whole = changed(LEDGER, privacy={**ENGINE["privacy"], "sampling_rate": 1.0})
    assert "nothing rests on a secret sample" in audit_html(whole)


def test_a_failed_test_stands_first_and_in_the_verdict():
    bad = {"name": "B one record: shape", "passed": False, "statistic": None, "threshold": 0.1,
           "detail": "far off"}  # fmt: skip
    values = changed(ENGINE, verdict="fail", tests=[*ENGINE["tests"], bad], evidence={})
    page = audit_html(values)
    assert (
        "FAIL: the claim does not hold. 1 of 3 tests failed: B one record: shape (far off)." in page
    )
    assert page.index("one record: shape</th>") < page.index("one record: scale</th>")
    assert page.count("FAILED") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ceiling_epsilon": 2.0, "verdict": "could not have been refuted"}, "3.5 at delta 1e-05"),
        ({"claimed_epsilon": None, "verdict": "could not have been refuted"}, "no finite epsilon"),
    ],
)
def test_what_could_not_be_refuted_is_never_called_private(changes, words):
    verdict = audit_verdict(changed(ENGINE, **changes))
    assert verdict.startswith("Could not have been refuted by this test")
    assert words in verdict
    assert "private" not in verdict.lower()


def test_every_text_of_the_values_is_escaped():
    tests = [{**ENGINE["tests"][0], "detail": HOSTILE, "name": f"A {HOSTILE}"}]
    studies = [{**LEDGER["studies"][0], "name": HOSTILE}]
    for values in (
        changed(
            ENGINE,
            tests=tests,
            title=HOSTILE,
            evidence={f"S {HOSTILE}": ENGINE["evidence"]["S secure"]},
        ),
        changed(LEDGER, tests=tests, studies=studies, remarks=[HOSTILE], folder=HOSTILE),
    ):
        page = audit_html(values)
        assert "<script" not in page
        assert not Reader(page).open
