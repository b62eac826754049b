"""The few callables every learner is made of (after FedJAX's `FederatedAlgorithm`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from common.cohort.parts import Part
from common.params import Params
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source

AVERAGE = "average"
"""The name, among a state's moments, of the mean of earlier rounds' weights."""


@dataclass(frozen=True)
class State:
    """What the server keeps from round to round: the shared weights and the optimiser's moments."""

    params: Params
    moments: dict[str, Params] = field(default_factory=dict)
    round: int = 0

    @property
    def model(self) -> Params:
        """The weights that are judged and handed on: their mean over rounds, if one is kept."""
        return self.moments.get(AVERAGE, self.params)


class Contribution(NamedTuple):
    """One hospital's delta and the public count it is weighted by."""

    declared: int
    delta: Params


class Patients(NamedTuple):
    """What a hospital adapts to: its training part and its public count of all patients."""

    train: Part
    declared: int


Init = Callable[[Params], State]
Adapt = Callable[[PrivateModel, Params, Patients, Source], Params]
Apply = Callable[[State, Sequence[Contribution]], State]
Stays = Callable[[Params], frozenset[str]]


def _nothing_stays(params: Params) -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True)
class Learner:
    """An algorithm as a value.

    Attributes:
        init: Initial weights -> state.
        adapt: (model, shared weights, a hospital's patients, randomness) -> delta, which is private
            as the plan says and is all that leaves.
        apply: (state, contributions) -> next state. Post-processing: it sees no patient. Weights
            that no contribution has stay as they are.
        stays: weights -> names of those that a hospital keeps to itself from round to round. They
            are as private as the delta, of which they are part.
    """

    name: str
    init: Init
    adapt: Adapt
    apply: Apply
    stays: Stays = _nothing_stays

    def shared(self, params: Params) -> Params:
        """Return the weights that leave a hospital."""
        own = self.stays(params)
        return {name: value for name, value in params.items() if name not in own}
