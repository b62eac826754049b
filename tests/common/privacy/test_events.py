"""Events: what is no mechanism is refused, and what was stored reads back as it was."""

import itertools
import json
import math

import dp_accounting
import pytest

from common.errors import GrandroundsError
from common.privacy.events import (
    PoissonGaussian,
    Unprotected,
    from_json,
    gaussian,
    merge,
    to_json,
)

STORED = {
    "kind": "poisson_gaussian",
    "sigma": 2.0,
    "sampling_rate": 0.1,
    "count": 5,
    "part": "train",
}


def test_stored_form_never_changes():
    event = gaussian(sigma=2.0, sampling_rate=0.1, count=5, part="train")
    assert to_json(event) == STORED
    assert to_json(Unprotected(part="holdout")) == {
        "kind": "unprotected",
        "part": "holdout",
        "count": 1,
    }


@pytest.mark.parametrize(
    "event",
    [
        PoissonGaussian(1.5, 1.0, 3, "holdout"),
        Unprotected("train", 2),
        PoissonGaussian(1.5, 1.0, 3, "holdout", adjacency="replace"),
    ],
)
def test_event_survives_storage(event):
    assert from_json(json.loads(json.dumps(to_json(event)))) == event


@pytest.mark.parametrize("kind", ["laplace", None, "", 3, ["poisson_gaussian"]])
def test_unknown_kind_is_refused(kind):
    with pytest.raises(GrandroundsError, match="unknown privacy event kind"):
        from_json({**STORED, "kind": kind})


@pytest.mark.parametrize(
    "change",
    [
        {"part": "validation"},  # parts compose in parallel: an unknown one would be free
        {"sigma": 0.0},
        {"sigma": -1.0},
        {"sigma": math.nan},
        {"sigma": math.inf},
        {"sigma": "2"},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"sampling_rate": math.nan},
        {"count": 0},
        {"count": -1},
        {"count": 1.5},
        {"unit": "record"},
        {"adjacency": "edge"},
    ],
)
def test_unreadable_price_is_refused(change):
    with pytest.raises(GrandroundsError, match="remedy"):
        from_json({**STORED, **change})


def test_missing_field_is_refused():
    with pytest.raises(GrandroundsError, match="sigma"):
        from_json({k: v for k, v in STORED.items() if k != "sigma"})


def test_sigma_zero_is_unprotected_and_other_nonsense_is_refused():
    assert gaussian(sigma=0.0, count=2, part="train") == Unprotected("train", 2)
    for sigma in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma"):
            gaussian(sigma=sigma, count=1, part="train")
    with pytest.raises(ValueError, match="sampling_rate"):
        gaussian(sigma=1.0, sampling_rate=0.0, count=1, part="train")


def test_accountant_is_told_the_mechanism_that_ran():
    def told(event):
        return event.to_dp_event()

    noise = dp_accounting.GaussianDpEvent(2.0)
    sampled = dp_accounting.PoissonSampledDpEvent(0.1, noise)
    assert told(from_json(STORED)) == dp_accounting.SelfComposedDpEvent(sampled, 5)
    full = PoissonGaussian(2.0, 1.0, 5, "train")
    assert told(full) == dp_accounting.SelfComposedDpEvent(noise, 5)
    assert told(Unprotected("train")) == dp_accounting.NonPrivateDpEvent()


def test_merge_adds_counts_and_does_not_mind_the_order():
    events = [
        PoissonGaussian(2.0, 0.5, 3, "train"),
        PoissonGaussian(2.0, 0.5, 4, "train"),
        PoissonGaussian(2.0, 0.5, 1, "holdout"),  # another part
        PoissonGaussian(2.0, 1.0, 1, "train"),  # another rate
        Unprotected("holdout"),
    ]
    merged = merge(events)
    assert PoissonGaussian(2.0, 0.5, 7, "train") in merged
    assert len(merged) == 4
    assert sum(e.count for e in merged) == sum(e.count for e in events)
    assert {merge(order) for order in itertools.permutations(events)} == {merged}
    assert merge([]) == ()


def test_events_of_different_adjacency_are_refused_and_never_added():
    # Break it once: leave the check out of merge.
    one = PoissonGaussian(2.0, 1.0, 1, "train")
    other = PoissonGaussian(2.0, 1.0, 1, "train", adjacency="replace")
    with pytest.raises(GrandroundsError, match="different adjacency"):
        merge([one, other])
    assert merge([other, other])[0].count == 2
