"""A ledger's entries folded anew, study by study."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from client.ledger import Entry, Key
from common.plan import Plan
from common.privacy.accounting import epsilon
from common.privacy.events import Event, Unprotected, from_json, merge

_PRICED = ("train", "evaluate")


@dataclass
class Study:
    """One study's entries, folded anew: nothing here asks the ledger what it makes of them.

    Attributes:
        paid: Each charge's events.
        answers: How often each request was answered.
        answered: The events of the answered ones.
        misfits: Charges that are not the plan's price of what was asked.
        reconciled: Charges of reconciliations.
    """

    digest: str
    plan: Plan | None
    delta: float = 0.0
    paid: list[tuple[Event, ...]] = field(default_factory=list)
    answers: Counter[Key] = field(default_factory=Counter)
    answered: list[Event] = field(default_factory=list)
    begun: set[str] = field(default_factory=set)
    misfits: int = 0
    reconciled: int = 0

    @property
    def name(self) -> str:
        """Name and digest, for a name may come twice."""
        own = "study" if self.plan is None else self.plan.study.name
        return f"{own} {self.digest[:8]}"

    @property
    def events(self) -> list[Event]:
        """Everything that was charged."""
        return [event for price in self.paid for event in price]

    @property
    def is_protected(self) -> bool:
        """Whether everything had noise."""
        return not any(isinstance(event, Unprotected) for event in self.events)

    @property
    def claim(self) -> float:
        """Epsilon of the plan, for as many runs as were begun; infinite where it is not known."""
        if self.plan is None or not self.plan.private:
            return math.inf
        rounds, runs = self.plan.study.rounds.count, max(1, len(self.begun))
        one = [*self.plan.training_prices(rounds=rounds), self.plan.evaluation_price()]
        return epsilon(one * runs, delta=self.plan.delta)


def fold(entries: Iterable[Entry], plans: Mapping[str, Plan]) -> list[Study]:
    """Read every entry once, and return the studies that were charged, in order.

    Args:
        entries: Of a ledger whose chain holds.
        plans: The approved ones, by digest.

    Raises:
        GrandroundsError: an event is of an unknown kind.
    """
    studies: dict[str, Study] = {}
    reserved: dict[int, tuple[Key, tuple[Event, ...]]] = {}

    def of(digest: str) -> Study:
        return studies.setdefault(digest, Study(digest, plans.get(digest)))

    for entry in entries:
        if entry.kind == "reserve":
            body = entry.body
            key = Key(body["digest"], body["run"], body["phase"], body["round"])
            events = tuple(from_json(event) for event in body["events"])
            reserved[entry.seq] = (key, events)
            if events or key.phase in _PRICED:
                study = of(key.digest)
                _charge(study, events, body["delta"])
                study.begun.add(key.run)
                study.misfits += study.plan is not None and not _is_due(study.plan, key, events)
        elif entry.kind == "commit":
            key, events = reserved[entry.body["reserve"]]
            if events or key.phase in _PRICED:
                studies[key.digest].answers[key] += 1
                studies[key.digest].answered += events
        elif entry.kind == "reconciliation":
            for charge in entry.body["charges"]:
                if charge["events"]:
                    events = tuple(from_json(event) for event in charge["events"])
                    _charge(of(charge["digest"]), events, charge["delta"])
                    of(charge["digest"]).reconciled += 1
    return [study for study in studies.values() if study.events]


def _charge(study: Study, events: tuple[Event, ...], delta: float) -> None:
    study.paid.append(events)
    study.delta = max(study.delta, delta)


def _is_due(plan: Plan, key: Key, events: Iterable[Event]) -> bool:
    """Tell whether the events are the plan's price of what was asked, in a round that it has."""
    last = plan.study.rounds.count
    if key.phase == "train":
        return 1 <= key.round <= last and merge(events) == merge(plan.training_prices())
    if key.phase == "evaluate":
        return key.round == last and merge(events) == merge([plan.evaluation_price()])
    return not tuple(events)
