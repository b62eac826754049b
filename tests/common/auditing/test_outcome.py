"""The verdict: only of the tests that were registered, and never more than they can say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from common.auditing.outcome import Audit, Registered, judge, judge_bound
from common.intervals import Estimate

REGISTERED = Registered(random=("scale", "one run"), exact=("replay",), p=0.01)


def outcomes(*, failed=(), lower=1.0, claim=3.0):
    made = [judge(n, statistic=float(n in failed), threshold=0.5) for n in ("scale", "replay")]
    return (*made, judge_bound("one run", lower=lower, claimed_epsilon=claim))


def audit(*, claim=3.0, lower=1.0, ceiling=5.0, failed=(), **changed):
    values = {
        "claimed_epsilon": claim,
        "delta": 1e-5,
        "registered": REGISTERED,
        "tests": outcomes(failed=failed, lower=lower, claim=claim),
        "lower_bounds": {"one run": lower},
        "parametric": Estimate(2.9, 2.8, 3.1),
        "ceiling_epsilon": ceiling,
    }
    return Audit(**{**values, **changed})


@pytest.mark.parametrize(
    ("made", "verdict", "code"),
    [
        (audit(), "not refuted", 0),
        (audit(ceiling=3.0), "not refuted", 0),
        (audit(ceiling=2.9), "could not have been refuted", 0),
        (audit(claim=math.inf), "could not have been refuted", 0),
        (audit(failed=("replay",)), "fail", 1),
        (audit(failed=("scale",), ceiling=2.0), "fail", 1),  # a fault is a fault above the ceiling
        (audit(lower=3.1), "fail", 1),
        (audit(lower=3.0), "not refuted", 0),
        (audit(lower=math.nan), "fail", 1),
        # A bound above the claim, beside a test that was told to pass.
        (audit(lower_bounds={"one run": 3.5}), "fail", 1),
    ],
)
def test_the_verdict(made, verdict, code):
    assert (made.verdict, made.exit_code) == (verdict, code)


def test_the_failed_tests_are_named():
    assert [t.name for t in audit(failed=("scale", "replay"), lower=4.0).failed] == [
        "scale",
        "replay",
        "one run",
    ]


def test_the_level_is_shared_by_the_tests_that_draw_on_chance():
    """1000 sound audits of 5 tests: at most 100 fail at p = .1; more than 131 once in 1500."""
    registered = Registered(random=tuple("abcde"), exact=("x", "y"), p=0.1)
    assert registered.level == pytest.approx(0.02)
    draws = np.random.default_rng(1).random((1000, 5))
    failed = int((draws.min(axis=1) < registered.level).sum())
    assert 70 <= failed <= 131
    assert Registered(random=(), exact=("x",)).level == 0.01


@pytest.mark.parametrize(
    ("found", "odd"),
    [
        (outcomes()[:2], "one run"),
        ((*outcomes(), judge("extra", statistic=0, threshold=1)), "extra"),
        ((*outcomes(), outcomes()[0]), "scale"),
        ((), "replay"),
    ],
)
def test_no_verdict_on_other_tests_than_registered(found, odd):
    with pytest.raises(ValueError, match=f"{odd}.*differ from those registered"):
        audit(tests=found, lower_bounds={})


def test_no_verdict_on_a_bound_that_took_no_share_of_the_level():
    for name in ("another", "replay"):
        with pytest.raises(ValueError, match="no registered random test"):
            audit(lower_bounds={name: 1.0})


def test_no_verdict_on_a_claim_that_is_none():
    for claim in (math.nan, -1.0):
        with pytest.raises(ValueError, match="claimed_epsilon is"):
            audit(claim=claim, tests=outcomes())


def test_a_registration_that_would_cheat_is_refused():
    with pytest.raises(ValueError, match="register each once"):
        Registered(random=("a",), exact=("a",))
    for p in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="p is"):
            Registered(random=("a",), p=p)


def test_the_contract_in_json():
    found = json.loads(json.dumps(audit(failed=("scale",)).to_json(), allow_nan=False))
    assert found["verdict"] == "fail"
    assert found["claimed_epsilon"] == 3.0
    assert found["delta"] == 1e-5
    assert found["lower_bound_epsilon"] == {"one run": 1.0}
    assert found["parametric_epsilon"] == {"low": 2.8, "high": 3.1}
    assert found["ceiling_epsilon"] == 5.0
    first = found["tests"][0]
    assert {k: first[k] for k in ("name", "passed", "statistic", "threshold")} == {
        "name": "scale",
        "passed": False,
        "statistic": 1.0,
        "threshold": 0.5,
    }


def test_json_holds_no_infinity():
    broken = judge("scale", statistic=math.inf, threshold=1.0)
    made = audit(
        claim=math.inf,
        lower=math.nan,
        parametric=Estimate(math.inf, 2.0, math.inf),
        tests=(broken, *outcomes(lower=math.nan, claim=math.inf)[1:]),
    )
    found = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert found["claimed_epsilon"] is None
    assert found["parametric_epsilon"] == {"low": 2.0, "high": None}
    assert found["tests"][0]["statistic"] is None
    assert found["tests"][0]["passed"] is False
    assert audit(parametric=None).to_json()["parametric_epsilon"] == {"low": None, "high": None}


def test_a_statistic_that_is_numpys_is_plain_in_the_outcome():
    found = judge("x", statistic=np.float64(1.0), threshold=np.float32(2.0))
    assert (type(found.passed), type(found.statistic)) == (bool, float)
