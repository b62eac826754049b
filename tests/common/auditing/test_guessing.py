"""The game of guesses: scores by the formula of two normals, counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from common.auditing.guessing import check_game, correct_guesses, log_likelihood_ratio


@pytest.mark.parametrize(("sigma", "rate"), [(1.0, 0.05), (0.5, 0.5), (3.0, 1.0)])
def test_the_score_is_the_ratio_of_the_two_densities(sigma, rate):
    x = np.random.default_rng(0).normal(size=(7, 4))
    out = norm.pdf(x, 0, sigma)
    inside = (1 - rate) * out + rate * norm.pdf(x, 1, sigma)
    expected = np.log(inside / out).sum(axis=0)
    assert log_likelihood_ratio(x, sigma=sigma, rate=rate) == pytest.approx(expected, rel=1e-9)


def test_the_score_survives_a_canary_that_was_not_clipped():
    huge = log_likelihood_ratio(np.array([[1e8, -1e8]]), sigma=0.1, rate=0.05)
    assert np.isfinite(huge).all()
    assert huge[0] > 1e9
    assert huge[1] == pytest.approx(np.log(0.95))


def test_the_highest_are_guessed_in_and_the_lowest_out():
    scores = np.array([0.9, 0.1, 0.8, 0.2, 0.5])
    included = np.array([True, False, False, True, True])
    assert correct_guesses(scores, included, as_in=1, as_out=0) == 1
    assert correct_guesses(scores, included, as_in=2, as_out=0) == 1
    assert correct_guesses(scores, included, as_in=0, as_out=1) == 1
    assert correct_guesses(scores, included, as_in=0, as_out=2) == 1
    assert correct_guesses(scores, included, as_in=3, as_out=2) == 3
    assert correct_guesses(scores, included, as_in=0, as_out=0) == 0


def test_scores_that_say_nothing_are_right_half_the_time():
    """2000 coins: beyond 5 standard deviations, 112, once in two million seeds."""
    included = np.random.default_rng(1).random(2000) < 0.5
    right = correct_guesses(np.zeros(2000), included, as_in=1000, as_out=1000)
    assert abs(right - 1000) < 112


def test_what_is_no_game_is_refused():
    ok = np.array([True, False])
    with pytest.raises(ValueError, match="1 that are not a number"):
        correct_guesses(np.array([np.nan, 1.0]), ok, as_in=1, as_out=0)
    with pytest.raises(ValueError, match="give \\(canaries,\\) both"):
        correct_guesses(np.zeros(3), ok, as_in=1, as_out=0)
    with pytest.raises(ValueError, match="guess each once"):
        correct_guesses(np.zeros(2), ok, as_in=2, as_out=1)
    for sigma, rate in ((0.0, 0.5), (np.nan, 0.5), (1.0, 0.0), (1.0, np.nan)):
        with pytest.raises(ValueError, match="use a"):
            log_likelihood_ratio(np.zeros((1, 1)), sigma=sigma, rate=rate)


@pytest.mark.parametrize(
    "wrong",
    [
        {"canaries": 0},
        {"guesses": 11},
        {"correct": 6},
        {"correct": -1},
        {"correct": np.nan},
        {"delta": 1.0},
        {"delta": np.nan},
        {"p": 0.0},
        {"p": np.nan},
    ],
)
def test_counts_that_no_game_has_are_refused(wrong):
    game = {"canaries": 10, "guesses": 5, "correct": 3, "delta": 1e-5, "p": 0.05}
    check_game(**game)
    with pytest.raises(ValueError, match="use"):
        check_game(**{**game, **wrong})
