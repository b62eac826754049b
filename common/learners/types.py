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
    """What the server keeps from round to round: the shared weights and the optimiser's moments.

    Attributes:
        params: The weights that all hospitals share.
        moments: Of the server's optimiser, and means over rounds, by name.
        round: How many rounds are done.
        own: Weights that the server alone has, and makes others from (a hypernetwork's).
    """

    params: Params
    moments: dict[str, Params] = field(default_factory=dict)
    round: int = 0
    own: Params = field(default_factory=dict)

    @property
    def model(self) -> Params:
        """The weights that are judged and handed on: their mean over rounds, if one is kept."""
        return self.moments.get(AVERAGE, self.params)


class Contribution(NamedTuple):
    """One hospital's delta, the public count it is weighted by, and the hospital's name."""

    declared: int
    delta: Params
    site: str = ""


class Patients(NamedTuple):
    """What a hospital adapts to: its training part and its public count of all patients.

    Attributes:
        classes: How many classes it names; those of the study where that is not said.
        last: Whether it is the last round.
    """

    train: Part
    declared: int
    classes: int | None = None
    last: bool = True


Init = Callable[[Params], State]
Adapt = Callable[[PrivateModel, Params, Patients, Source], Params]
Apply = Callable[[State, Sequence[Contribution]], State]
Stays = Callable[[Params], frozenset[str]]
Personal = Callable[[State, str], Params]


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
        personal: (state, site's name) -> the weights that this site is sent, where each has its
            own. Post-processing, as `apply`.
    """

    name: str
    init: Init
    adapt: Adapt
    apply: Apply
    stays: Stays = _nothing_stays
    personal: Personal | None = None

    def start(self, state: State, site: str) -> Params:
        """Return the weights from which a hospital's next round starts."""
        return state.params if self.personal is None else self.personal(state, site)

    def result(self, state: State, site: str) -> Params:
        """Return the weights that are judged at a hospital and handed to it."""
        return state.model if self.personal is None else self.personal(state, site)

    def shared(self, params: Params) -> Params:
        """Return the weights that leave a hospital."""
        own = self.stays(params)
        return {name: value for name, value in params.items() if name not in own}
