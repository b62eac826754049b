"""The audit of an engine: sound ones pass, planted faults are found by the test they should be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import RunError, StudyError
from common.privacy import one_by_one, perceptron
from common.privacy.engine import PrivateModel
from simulations.audit.engine import FULL, Effort, Way, audit_engine
from simulations.audit.installation import ways_of
from simulations.audit.replay import replays
from tests.broken_engines import FAULTS, ONE, SMALL, small_subject, sound_ways

# The secure generator has no seed, so sound engines are held to a level at which a whole suite of
# audits fails by chance less than once in ten thousand runs; the shipped level is `make audit`'s.
RARELY = 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_by_the_test_it_should_be(name):
    fault = FAULTS[name]
    audit = audit_engine(fault.ways(), fault.effort, seed=0).audit
    found = {test.name: test.detail for test in audit.failed}
    assert fault.caught_by in found
    assert "stopped" not in found[fault.caught_by]  # measured, not merely broken by a new signature
    assert (audit.verdict, audit.exit_code) == ("fail", 1)


def test_an_engine_that_cannot_run_gets_no_verdict():
    way = Way(ONE, replace(small_subject(), adapt_for=lambda plan: None), 1, 20)
    with pytest.raises(RunError, match="without a verdict: TypeError"):
        audit_engine([way], SMALL, seed=0)


def test_a_sound_engine_passes():
    audit = audit_engine(sound_ways(), replace(SMALL, p=RARELY), seed=0).audit
    assert not audit.failed


@pytest.mark.slow
def test_a_sound_engine_passes_under_twenty_seeds():
    effort = Effort(canaries=300, others=300, samples=60, patients=200, measured=False, p=RARELY)
    failed = [
        test for s in range(20) for test in audit_engine(sound_ways(), effort, seed=s).audit.failed
    ]
    assert not failed


@pytest.mark.parametrize(
    "learner",
    ["fomaml", *(pytest.param(name, marks=pytest.mark.slow) for name in ("maml", "metanet"))],
)
def test_a_learner_with_a_query_is_audited_at_its_query(learner):
    way = Way(ONE, small_subject(learner=learner), 1, 20)
    assert not audit_engine([way], replace(SMALL, p=RARELY), seed=0).audit.failed


def test_without_canaries_no_claim_could_have_been_refuted():
    audit = audit_engine(sound_ways()[:1], replace(SMALL, p=RARELY), seed=0).audit
    assert audit.verdict == "could not have been refuted"
    assert audit.exit_code == 0


@pytest.mark.slow
def test_the_epsilon_measured_is_close_to_the_claim():
    # As `make audit` has it: sigma 1, q .05, 100 steps, 2000 patients, 5000 canaries.
    ways = ways_of("mlp", "reptile", device="cpu", full=False)
    audit = audit_engine(ways, replace(FULL, sites=False, p=RARELY), seed=0).audit
    assert audit.verdict == "not refuted"
    assert audit.parametric is not None
    assert 0.9 * audit.claimed_epsilon <= audit.parametric.low


@pytest.mark.parametrize(
    ("records", "width", "module", "name"),
    [
        (1, 8, perceptron, "clipped_sum"),
        (2, 8, PrivateModel, "_patient_gradients"),
        pytest.param(2, 2048, one_by_one, "clipped_sum", marks=pytest.mark.slow),
    ],
)
def test_each_way_is_the_one_that_the_engine_takes(records, width, module, name, monkeypatch):
    asked, real = [], getattr(module, name)

    def noted(*args, **options):
        asked.append(name)
        return real(*args, **options)

    monkeypatch.setattr(module, name, noted)
    if width == 8:
        next(iter(replays(small_subject(records), records=records, seed=0)))
    else:
        way = ways_of("mlp", "reptile", device="cpu", full=True)[-1]
        next(iter(replays(way.subject, records=way.records, seed=0)))
    assert asked


@pytest.mark.parametrize(
    ("model", "learner", "words"),
    [("resnet", "reptile", "--model is 'resnet'"), ("mlp", "magic", "--learner is 'magic'")],
)
def test_what_is_not_known_is_refused_with_what_is(model, learner, words):
    with pytest.raises(StudyError, match=words):
        ways_of(model, learner, device="cpu", full=False)
