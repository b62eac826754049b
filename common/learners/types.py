"""The few callables every learner is made of (after FedJAX's `FederatedAlgorithm`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from common.cohort.parts import Part
from common.params import Params
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source


@dataclass(frozen=True)
class State:
    """What the server keeps from round to round: the shared weights and the optimiser's moments."""

    params: Params
    moments: dict[str, Params] = field(default_factory=dict)
    round: int = 0


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


@dataclass(frozen=True)
class Learner:
    """An algorithm as a value.

    Attributes:
        init: Initial weights -> state.
        adapt: (model, shared weights, a hospital's patients, randomness) -> delta, which is private
            as the plan says and is all that leaves.
        apply: (state, contributions) -> next state. Post-processing: it sees no patient.
    """

    name: str
    init: Init
    adapt: Adapt
    apply: Apply
