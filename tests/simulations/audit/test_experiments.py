"""What the experiments see of an engine, held to what is known of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import StudyError
from common.plan import compile_study
from common.privacy.noise import SeededSource
from simulations.audit.canaries import tosses_of
from simulations.audit.noise import noise_of
from simulations.audit.rig import rig
from simulations.audit.sampler import samples_of, steps_taken
from simulations.audit.sources import Coupled, Quiet, Recorded, Silenced
from simulations.audit.subject import Subject
from tests.broken_engines import small_subject


def test_a_coupled_stream_gives_neighbours_the_same_draws():
    one, more = Coupled(1), Coupled(1)
    assert (one.uniform(4) == more.uniform(5)[:4]).all()
    assert (one.normal(3) == more.normal(3)).all()
    assert Coupled(1, everyone=False).uniform(9).min() > 0.999
    assert Coupled(1, amplitude=0.0).normal(3).tolist() == [0.0] * 3


def test_a_quiet_stream_repeats_the_choices_and_drops_the_noise():
    recorded = Recorded(SeededSource(3))
    drawn, _ = recorded.uniform(5), recorded.normal(7)
    quiet = Quiet(recorded)
    assert (quiet.uniform(5) == drawn).all()
    assert not quiet.normal(7).any()
    assert recorded.normals == 7
    assert quiet.uniform(2).min() > 0.999  # a draw that the engine did not make before


@pytest.mark.parametrize("records", [1, 2])
@pytest.mark.parametrize("learner", ["reptile", "fomaml"])
def test_a_canary_moves_its_own_direction_by_c_and_no_other(records, learner):
    # Two records of a patient put the head beside the model, one the column into it.
    subject = small_subject(records, learner)
    made = rig(subject, canaries=6, others=4, steps=1, most_steps=1, records=records, seed=2)
    there = np.array([True, False, True, True, False, False])
    total = made.bench.total(made.with_canaries(there), Coupled(0, amplitude=0.0))
    assert made.read(total) == pytest.approx(there.astype(float), abs=1e-3)


def test_noise_is_what_the_stream_gave_and_not_what_patients_add():
    subject = small_subject()
    found = noise_of(subject, generator="seeded", steps=1, releases=2, count=30, records=1, seed=5)
    replaced = replace(subject, adapt_for=_without_noise)
    none = noise_of(replaced, generator="seeded", steps=1, releases=2, count=30, records=1, seed=5)
    assert found.releases.std() == pytest.approx(1, abs=0.1)
    assert not none.releases.any()


def _without_noise(plan):
    sound = small_subject().adapt_for(plan)
    return lambda model, theta, patients, source: sound(model, theta, patients, Silenced(source))


def test_who_was_sampled_is_read_off_the_delta():
    found = samples_of(small_subject(), generator="seeded", releases=40, count=50, seed=1)
    # 2000 draws at .05: 100 expected, standard deviation 9.7.
    assert 60 < found.chosen.sum() < 140
    assert found.counts.max() == 1
    assert steps_taken(small_subject(), steps=3, count=5, seed=1) == 3


def test_canaries_without_noise_are_told_from_each_other():
    subject = replace(small_subject(), adapt_for=_without_noise)
    tosses = tosses_of(
        subject, canaries=60, others=10, releases=200, generator="seeded", records=1, seed=3
    )
    # A canary that is there is never sampled with probability .95^200 = 3.5e-5; the seed is fixed.
    for score in tosses.scores:
        assert tosses.correct(score, 20) == 20


def test_what_promises_nothing_is_not_audited():
    study = small_subject().plan.study.with_epsilon(None)
    with pytest.raises(StudyError, match="promises nothing"):
        Subject(compile_study(study))
