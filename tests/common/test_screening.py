"""Work saved over sampling, against figures counted by hand."""

import numpy as np
import pytest

from common.screening import work_saved


def ranked(*relevant):
    """Scores that fall by one from record to record, and whether each is relevant."""
    return -np.arange(len(relevant), dtype=float), np.array(relevant, dtype=bool)


def test_twenty_relevant_of_a_hundred():
    # .95 of 20 is 19. Relevant are ranks 1 to 19 and 60: reading stops after 19, so 81 of 100 are
    # unread (80 irrelevant, 1 relevant): .81 - .05.
    flags = [True] * 19 + [False] * 40 + [True] + [False] * 40
    assert work_saved(*ranked(*flags)) == pytest.approx(0.76)
    # At a recall of 1 all 20 are wanted: reading stops after rank 60, and 40 are unread.
    assert work_saved(*ranked(*flags), recall=1.0) == pytest.approx(0.40)


def test_few_relevant_are_all_wanted_and_nothing_is_credited_for_it():
    # .95 of 2 is 1.9, so both: ranks 1 and 4. Unread 6 of 10: .6 - .05, though the recall is 1.
    # Fault it is for: 1 - recall of what was found (0) in place of what was asked for (.05).
    flags = [True, False, False, True] + [False] * 6
    assert work_saved(*ranked(*flags)) == pytest.approx(0.55)


def test_ties_with_the_threshold_are_read():
    # All of one score: nobody can be left unread.
    assert work_saved(np.zeros(10), np.arange(10) < 3) == pytest.approx(-0.05)
    # Scores 3, 2, 2, 1 with the relevant among the twos: both twos are read, one of four is not.
    tied = np.array([3.0, 2.0, 2.0, 1.0]), np.array([False, True, False, False])
    assert work_saved(*tied) == pytest.approx(0.25 - 0.05)


def test_the_worst_order_saves_less_than_nothing_and_a_random_one_about_nothing():
    assert work_saved(*ranked(*[False] * 9, True)) == pytest.approx(-0.05)
    rng = np.random.default_rng(0)
    saved = [work_saved(rng.random(2000), np.arange(2000) < 400) for _ in range(50)]
    # The 380th of 400 relevant stands at 19/20 of the list: sd of the mean about .0015; 4 sd.
    assert abs(np.mean(saved)) < 0.006


def test_nothing_relevant_has_no_figure_and_shapes_must_agree():
    assert work_saved(np.ones(3), np.zeros(3, dtype=bool)) is None
    with pytest.raises(ValueError, match=r"give \(records,\)"):
        work_saved(np.ones(3), np.ones(2, dtype=bool))
    with pytest.raises(ValueError, match=r"recall is 1\.5"):
        work_saved(np.ones(3), np.ones(3, dtype=bool), recall=1.5)
