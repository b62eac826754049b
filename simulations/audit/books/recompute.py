"""Epsilon a second time, from events alone, by accountants that priced no release here.

Releases are priced by `common.privacy.accounting`, which composes losses by its own route. Here the
same events go through dp-accounting's accountant and through Opacus's, another method altogether.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from dp_accounting import NeighboringRelation
from dp_accounting.pld import PLDAccountant

from common.privacy.engine import prv_epsilon
from common.privacy.events import Adjacency, Event, merge

PRV_ERROR = 0.01
"""Opacus returns the upper end of an interval of twice this width."""
PRV_TOLERANCE = PRV_ERROR + 1e-3  # half the interval, and how far PLD may be above it

_SIDES = (("train", "support"), ("train", "query"), ("holdout",))  # whom one patient is among
_RELATIONS: dict[Adjacency, NeighboringRelation] = {
    "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace": NeighboringRelation.REPLACE_ONE,
}


@dataclass(frozen=True)
class Recomputed:
    """Epsilon of the same events by two accountants; infinite where one is unprotected."""

    pld: float
    prv: float

    @property
    def apart(self) -> float:
        """How far PLD is from the middle of PRV's interval; 0 where both are infinite."""
        return 0.0 if self.pld == self.prv else abs(self.pld - (self.prv - PRV_ERROR))


def recompute(events: Iterable[Event], *, delta: float) -> Recomputed:
    """Return what events cost the patient who pays most.

    Args:
        events: Everything released about one study's patients.
        delta: Of the study.

    Raises:
        GrandroundsError: the events are of different adjacency.

    >>> from common.privacy.events import gaussian
    >>> found = recompute([gaussian(sigma=4.0, count=6, part="train")], delta=1e-3)
    >>> round(found.pld, 2), found.apart < PRV_TOLERANCE
    (1.73, True)
    """
    return _recompute(merge(events), delta)


@lru_cache(maxsize=1024)
def _recompute(events: tuple[Event, ...], delta: float) -> Recomputed:
    sides = [[e for e in events if e.part in parts] for parts in _SIDES]
    paid = [side for side in sides if side]
    return Recomputed(
        max((_pld(side, delta) for side in paid), default=0.0),
        max((prv_epsilon(side, delta=delta, error=PRV_ERROR) for side in paid), default=0.0),
    )


def _pld(events: list[Event], delta: float) -> float:
    accountant = PLDAccountant(_RELATIONS[events[0].adjacency])
    for event in events:
        accountant.compose(event.to_dp_event())
    return float(accountant.get_epsilon(delta))
