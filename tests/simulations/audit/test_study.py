"""`audit study`: a study as it would run, sound, broken, and above what the test can see."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest

from common.auditing import one_run
from common.embedded import find_study
from common.learners import learner_for
from common.plan import compile_study
from common.study import load_study
from simulations.audit import study as audited
from simulations.audit.experiments import Seen
from simulations.audit.subject import Subject
from tests.broken_engines import FAULTS
from tests.command_line import run_command

LEVEL = 0.01 / 6


@pytest.fixture(scope="module")
def demo():
    return load_study(find_study("breast_cancer"))


def test_guesses_let_the_ceiling_reach_the_claim_where_any_do():
    """Fault it is for: so few guesses that a large delta leaves nothing to refute with."""
    game = {"canaries": 1000, "delta": 3e-4, "p": LEVEL}
    assert one_run.ceiling(**game, guesses=200) == 0
    guesses, ceiling = audited.guesses_for("one run", **game, claimed_epsilon=1.0)
    assert (guesses, ceiling) == (1000, one_run.ceiling(**game, guesses=1000))
    assert ceiling > 0
    guesses, ceiling = audited.guesses_for("f-DP", **game, claimed_epsilon=5.0)
    assert guesses == 500
    assert ceiling >= 5.0


def test_sound_hospitals_show_less_than_the_claim(demo):
    subject, seen = Subject(compile_study(demo)), Seen()
    test = audited.at_hospitals(demo, subject, claimed_epsilon=3.0, count=600, seeds=1)
    assert all(outcome.passed for outcome in test.run(LEVEL, seen))
    assert 0.2 < max(seen.bounds.values()) < 3.0 < seen.ceiling


def test_a_bound_that_could_show_nothing_is_not_shown(demo):
    subject, seen = Subject(compile_study(demo)), Seen()
    test = audited.at_hospitals(demo, subject, claimed_epsilon=3.0, count=60, seeds=1)
    outcomes = {o.name: o for o in test.run(4e-4, seen)}
    assert not any("one run" in name for name in seen.bounds)
    assert "its ceiling is 0" in outcomes["C canaries: sum, one run"].detail


def test_a_broken_engine_is_refuted_at_the_hospitals(demo):
    broken = FAULTS["noise divided by 10"].breaks
    subject, seen = replace(Subject(compile_study(demo)), **broken), Seen()
    test = audited.at_hospitals(demo, subject, claimed_epsilon=3.0, count=600, seeds=1)
    failed = {o.name for o in test.run(LEVEL, seen) if not o.passed}
    assert "C canaries: likelihood ratio, f-DP" in failed


def test_more_seeds_are_one_larger_game(demo):
    subject, seen = Subject(compile_study(demo)), Seen()
    test = audited.at_hospitals(demo, subject, claimed_epsilon=3.0, count=30, seeds=2)
    test.run(LEVEL, seen)
    assert len(seen.evidence["C"]["there"]) + len(seen.evidence["C"]["not there"]) == 60


@pytest.mark.slow
def test_a_claim_above_the_ceiling_is_said_to_be_so(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(audited, "_CANARIES", 60)
    out = tmp_path / "audit"
    arguments = ("audit", "study", "breast_cancer", "--out", out)
    ended = run_command(monkeypatch, capsys, *arguments)
    assert ended.code == 0
    assert "Could not have been refuted by this test" in ended.out
    kept = json.loads((out / "audit.json").read_text())
    assert kept["verdict"] == "could not have been refuted"
    assert kept["study_digest"] == compile_study(demo).digest
    measured = kept["parametric_epsilon"]
    assert measured["low"] < kept["claimed_epsilon"] < measured["high"]
    assert kept["ceiling_epsilon"] < kept["claimed_epsilon"]
    assert all(test["passed"] for test in kept["tests"])
    assert "Could not have been refuted by this test" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("nobody",), "study 'nobody' is neither"), (("heart",), "no data folder is given")],
)
def test_a_mistake_is_one_message(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.delenv("GRANDROUNDS_DATA", raising=False)
    out = tmp_path / "audit"
    ended = run_command(monkeypatch, capsys, "audit", "study", *arguments, "--out", out)
    assert ended.code == 2
    assert message in " ".join(ended.err.split())
    assert not out.exists()


@pytest.mark.slow
def test_a_study_whose_inner_steps_lack_noise_fails(demo, monkeypatch):
    """Fault it is for: an audit that sees the query of FOMAML alone, and not what led there."""
    learner = demo.learner.named("fomaml")
    study = demo.model_copy(update={"learner": learner})

    def broken(plan):
        return learner_for(replace(plan, sigma=plan.sigma / 10)).adapt

    monkeypatch.setattr(audited, "Subject", partial(Subject, adapt_for=broken))
    audit, _ = audited.audit_study(study, seeds=1, canaries=12)
    assert {o.name for o in audit.failed} == {"A transcript: noise"}
