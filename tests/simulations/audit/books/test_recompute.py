"""Epsilon recomputed: both accountants, every side of a patient, both adjacencies."""

from __future__ import annotations

import math

import pytest

from common.errors import GrandroundsError
from common.privacy.accounting import epsilon
from common.privacy.events import PoissonGaussian, Unprotected, gaussian
from simulations.audit.books.recompute import PRV_TOLERANCE, recompute


@pytest.mark.slow
@pytest.mark.parametrize(
    "events",
    [
        [gaussian(sigma=4.0, count=6, part="train"), gaussian(sigma=2.0, count=1, part="holdout")],
        [gaussian(sigma=4.0, count=4, part="train", sampling_rate=0.5)],
        [  # a training patient pays for the own side and for what all training patients pay
            gaussian(sigma=9.0, count=6, part="support"),
            gaussian(sigma=3.0, count=1, part="query"),
            gaussian(sigma=9.0, count=2, part="train"),
        ],
        [PoissonGaussian(6.0, 1.0, 3, "train", "replace")],
    ],
)
def test_both_accountants_agree_with_the_price(events):
    found = recompute(events, delta=1e-4)
    assert found.pld == pytest.approx(epsilon(events, delta=1e-4), abs=1e-9)
    assert found.apart <= PRV_TOLERANCE


def test_what_has_no_noise_is_infinite_and_nothing_is_free():
    assert recompute([Unprotected("train")], delta=1e-4).pld == math.inf
    assert recompute([Unprotected("train")], delta=1e-4).apart == 0
    assert recompute([], delta=1e-4).pld == 0


def test_events_of_two_adjacencies_do_not_add_up():
    events = [
        gaussian(sigma=4.0, count=6, part="train"),
        PoissonGaussian(6.0, 1.0, 3, "train", "replace"),
    ]
    with pytest.raises(GrandroundsError, match="do not add up"):
        recompute(events, delta=1e-4)
