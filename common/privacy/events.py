"""Mechanisms as data: what was done to patients, so that an accountant can price it.

A stored event never changes meaning. A new mechanism is a new kind; an unknown kind is refused
(after dp_accounting's `DpEvent`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import dp_accounting

from common.errors import GrandroundsError

Part = Literal["train", "holdout", "support", "query"]
"""Whose patients: those who train or those who evaluate; 'support' and 'query' part the former."""

Adjacency = Literal["add_remove", "replace"]
"""Neighbouring data sets differ in a patient more or less, or in one unit exchanged for another."""


@dataclass(frozen=True)
class PoissonGaussian:
    """`count` sums over a Poisson sample of patients, each clipped to C, plus N(0, (sigma C)^2).

    `sampling_rate` 1 is the plain Gaussian mechanism on all patients of the part. Under adjacency
    'replace' the summands are units that keep their place whatever is in them (an episode, a
    group), so that the sum moves by at most 2 C where a unit is exchanged for another.
    """

    sigma: float
    sampling_rate: float
    count: int
    part: Part
    adjacency: Adjacency = "add_remove"

    def __post_init__(self) -> None:
        """Refuse what is no mechanism: its price would be a guess."""
        _check_common(self.part, self.count, self.adjacency)
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma is {self.sigma}; use a finite number above 0")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(
                f"sampling_rate is {self.sampling_rate}; use a number above 0 and at most 1"
            )

    def to_dp_event(self) -> dp_accounting.DpEvent:
        """Return the event as dp-accounting knows it."""
        event = dp_accounting.GaussianDpEvent(self.sigma)
        if self.sampling_rate < 1.0:
            event = dp_accounting.PoissonSampledDpEvent(self.sampling_rate, event)
        return dp_accounting.SelfComposedDpEvent(event, self.count)


@dataclass(frozen=True)
class Unprotected:
    """A value computed from patients without noise: its epsilon is infinite."""

    part: Part
    count: int = 1
    adjacency: Adjacency = "add_remove"

    def __post_init__(self) -> None:
        """Refuse an unknown part."""
        _check_common(self.part, self.count, self.adjacency)

    def to_dp_event(self) -> dp_accounting.DpEvent:
        """Return dp-accounting's non-private event."""
        return dp_accounting.NonPrivateDpEvent()


def _check_common(part: str, count: int, adjacency: str) -> None:
    if part not in get_args(Part):  # parts compose in parallel: an unknown one would be free
        raise ValueError(f"part is {part!r}; use one of {get_args(Part)}")
    if type(count) is not int or count < 1:
        raise ValueError(f"count is {count}; use a whole number of at least 1")
    if adjacency not in get_args(Adjacency):
        raise ValueError(f"adjacency is {adjacency!r}; use one of {get_args(Adjacency)}")


Event = PoissonGaussian | Unprotected

_KINDS: dict[str, type[PoissonGaussian] | type[Unprotected]] = {
    "poisson_gaussian": PoissonGaussian,
    "unprotected": Unprotected,
}
_NAMES = {cls: name for name, cls in _KINDS.items()}


def gaussian(*, sigma: float, count: int, part: Part, sampling_rate: float = 1.0) -> Event:
    """Return the event of `count` Gaussian releases; sigma 0 is no protection at all.

    >>> gaussian(sigma=0.0, count=3, part="train")
    Unprotected(part='train', count=3, adjacency='add_remove')
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma is {sigma}; use a finite number of at least 0")
    if sigma == 0:
        return Unprotected(part=part, count=count)
    return PoissonGaussian(sigma=sigma, sampling_rate=sampling_rate, count=count, part=part)


def to_json(event: Event) -> dict[str, Any]:
    """Return the event as plain values with its kind.

    >>> to_json(gaussian(sigma=2.0, count=5, part="train"))["kind"]
    'poisson_gaussian'
    """
    fields = asdict(event)
    if event.adjacency == "add_remove":  # what ledgers held before there was another
        del fields["adjacency"]
    return {"kind": _NAMES[type(event)], **fields}


def from_json(value: Mapping[str, Any]) -> Event:
    """Return the event that `to_json` wrote.

    Raises:
        GrandroundsError: the kind, a field or a value is unknown: a price that cannot be read is no
            price.
    """
    fields = dict(value)
    kind = str(fields.pop("kind", None))
    remedy = "read this ledger with the version of grandrounds that wrote it, or a later one"
    if kind not in _KINDS:
        raise GrandroundsError(f"unknown privacy event kind {kind!r}", remedy=remedy)
    try:
        return _KINDS[kind](**fields)
    except (TypeError, ValueError) as error:
        reason = f"privacy event {fields} of kind {kind!r}: {error}"
        raise GrandroundsError(reason, remedy=remedy) from None


def merge(events: Iterable[Event]) -> tuple[Event, ...]:
    """Add up the counts of like events, in a stable order: composition does not mind the order.

    Raises:
        GrandroundsError: the events are of different adjacency.

    >>> merge([gaussian(sigma=2.0, count=5, part="train")] * 3)[0].count
    15
    """
    counts: dict[Event, int] = {}
    for event in events:
        like = replace(event, count=1)
        counts[like] = counts.get(like, 0) + event.count
    one_adjacency(counts)
    merged = [replace(like, count=n) for like, n in counts.items()]
    return tuple(sorted(merged, key=lambda e: str(to_json(e))))


def one_adjacency(events: Iterable[Event]) -> None:
    """Refuse events of different adjacency: their prices are of different promises.

    Raises:
        GrandroundsError: they are.
    """
    found = {event.adjacency for event in events}
    if len(found) > 1:
        raise GrandroundsError(
            f"privacy events of different adjacency ({', '.join(sorted(found))}) do not add up",
            remedy="keep studies of another adjacency in a site folder of their own",
        )
