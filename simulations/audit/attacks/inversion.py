"""Gradient inversion: what a hospital's delta of the first round tells of one of its patients.

Two attackers, both of whom follow the protocol. The *coordinator alone* has the delta and the plan.
The *informed* one also knows every other patient of the hospital and who of them was sampled, and
not the noise: the attacker against whom differential privacy promises (Balle, Cherubin and Hayes
2022, "Reconstructing training data with informed adversaries").

Where the first layer is linear its gradient is s x^T for the weights and s for the bias, so their
quotient is the input itself, whatever the rest of the network (Phong et al. 2018; Geiping et al.
2020, proposition 3.1). Alone, this reads off whoever is the only one to move a unit. The informed
attacker has the engine, so it subtracts the delta that the others would make. What is left is
L g: the patient's gradients g after the steps that followed pulled everybody's weights along, L. In
a training that does not diverge L's eigenvalues lie in (0, 1], so g <- g + (delta - delta of the
guess) converges (Richardson 1911); Anderson's mixing makes it fast. Each turn runs the engine once.

Other first layers are left to `matching`. An attack that fails proves nothing: another may succeed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.cohort.parts import Part, join
from common.errors import DataError
from common.learners import learner_for
from common.learners.types import Patients
from common.models import build
from common.params import Params, flatten, subtract, unflatten
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.privacy.perceptron import Layers, linear_layers
from common.seeds import derive
from simulations.audit.attacks.matching import matched
from simulations.audit.sources import Coupled

RECOVERED = 0.99  # the correlation from which a patient counts as read off

_TURNS = 40
_DEPTH = 8
_RTOL = 1e-6
_PATIENCE = 12  # turns without a nearer guess: noise has no patient that explains it
_CLOSE = 1e-5
_SEEDS = 200  # rounds to look for one in which the target was sampled


@dataclass(frozen=True)
class Victim:
    """A hospital and the patient whom an informed attacker wants.

    Attributes:
        target: The patient, of one record.
        others: Everybody else in training, whom the attacker knows.
        declared: The hospital's public count.
        seed: Of the round's sampling and noise.
    """

    target: Part
    others: Part
    declared: int
    seed: int


def pick(part: Part, *, declared: int, number: int, seed: int) -> Iterator[Victim]:
    """Yield so many of a hospital's training patients as victims, each the last among the others.

    Of a patient with several records the first takes part alone.
    """
    order = torch.randperm(part.patients, generator=torch.Generator().manual_seed(seed))
    for patient in order[:number].tolist():
        mine = torch.arange(part.patients) == patient
        target = part.of_patients(mine).select(torch.zeros(1, dtype=torch.int64))
        yield Victim(target, part.of_patients(~mine), declared, derive(seed, "victim", patient))


class Attacker:
    """An informed attacker with its own copy of the software, for one plan.

    Args:
        plan: The study's, private or not.
        theta: The shared weights of the attacked round.
        iterations: Of gradient matching, where that is the method.
    """

    def __init__(self, plan: Plan, theta: Params, *, iterations: int) -> None:
        self._theta, self._iterations = theta, iterations
        self._module: nn.Module = build(plan.study)
        self._engine = PrivateModel(build(plan.study))
        self._learner = learner_for(plan)
        self._layers = linear_layers(self._module)
        self._samples_all = plan.study.learner.sampling_rate == 1

    @property
    def method(self) -> str:
        """How inputs are read: 'closed form' or 'gradient matching'."""
        return "closed form" if self._layers else "gradient matching"

    def read(self, victim: Victim) -> Tensor:
        """Return what the attacker takes for the victim's input, of the input's shape.

        Raises:
            DataError: the victim takes part in no round.
        """
        seed = self._present(victim)
        delta = self._delta(victim, [victim.others, victim.target], seed, amplitude=1.0)
        goal = subtract(delta, self._delta(victim, [victim.others], seed))
        shape = victim.target.x.shape
        if self._layers is None:
            return matched(
                self._module, self._theta, goal, shape, iterations=self._iterations, seed=seed
            )
        layers = self._layers

        def shown(guess: Part) -> Params:
            return self._delta(victim, [victim.others, guess], seed)

        return _solve(lambda g: _quotient(g, layers, victim.target), shown, delta, goal)

    def _delta(
        self, victim: Victim, parts: list[Part], seed: int, *, amplitude: float = 0.0
    ) -> Params:
        """Return what leaves; without amplitude the attacker's own, which has no noise."""
        source = Coupled(seed, everyone=None, amplitude=amplitude)
        patients = Patients(join(parts), victim.declared)
        delta = self._learner.adapt(self._engine, self._theta, patients, source)
        return self._learner.shared(delta)

    def _present(self, victim: Victim) -> int:
        """Return the seed of a round in which the victim was sampled."""
        if self._samples_all:
            return victim.seed
        for number in range(_SEEDS):
            seed = derive(victim.seed, number)
            both = self._delta(victim, [victim.others, victim.target], seed)
            without = self._delta(victim, [victim.others], seed)
            if any(not torch.equal(both[name], without[name]) for name in both):
                return seed
        raise DataError(
            f"a patient took part in none of {_SEEDS} rounds, or moves no weight",
            remedy="raise learner.sampling_rate or learner.local_steps to attack this study",
        )


def _solve(
    read: Callable[[Params], Part], shown: Callable[[Part], Params], delta: Params, goal: Params
) -> Tensor:
    """Return the guess whose delta, of all that were tried, comes nearest to the one received."""
    at, mixing = flatten(goal).double(), Mixing(_DEPTH)
    size, best, found, waited = float(at.norm()), math.inf, torch.empty(0), 0
    for _ in range(_TURNS):
        guess = read(unflatten(at, goal))
        rest = flatten(subtract(delta, shown(guess))).double()
        distance = float(rest.norm()) / size
        waited = 0 if distance < 0.98 * best else waited + 1
        if distance < best or not found.numel():
            best, found = distance, guess.x
        if best < _CLOSE or waited >= _PATIENCE or not math.isfinite(distance):
            break
        at = mixing.next(at, rest)
    return found


class Mixing:
    """Anderson's mixing (1965) of the steps x <- x + r(x), which alone may swing for long.

    Args:
        depth: How many steps it looks back.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._points: list[Tensor] = []
        self._rests: list[Tensor] = []

    def next(self, point: Tensor, rest: Tensor) -> Tensor:
        """Return where to go from `point`, where r is `rest`; both (values,), float64."""
        self._points = [*self._points, point][-self._depth - 1 :]
        self._rests = [*self._rests, rest][-self._depth - 1 :]
        if len(self._points) == 1:
            return point + rest
        moves, changes = (
            torch.stack([b - a for a, b in pairwise(kept)], dim=1)
            for kept in (self._points, self._rests)
        )
        back = torch.linalg.pinv(changes, rtol=_RTOL) @ rest
        mixed: Tensor = point + rest - (moves + changes) @ back
        return mixed


def _quotient(goal: Params, layers: Layers, target: Part) -> Part:
    """Return the target with the input and outcome that explain a delta, best in squares."""
    weight, bias = (goal[name].double() for name in layers[0])
    square = (bias @ bias).clamp_min(torch.finfo(torch.float64).tiny)
    x = torch.nan_to_num((weight.T @ bias) / square).float().reshape(target.x.shape)
    head = goal.get(layers[-1][1])  # where it stays at the hospital, the outcome is taken as known
    y = target.y if head is None else head.argmax().reshape(1)  # the true class's bias goes up
    return replace(target, x=x, y=y)


def read_alone(delta: Params, layers: Layers) -> Tensor:
    """Return what the coordinator alone reads, an input for each unit, (units, values)."""
    weight, bias = (delta[name].double() for name in layers[0])
    moved = bias != 0
    return (weight[moved] / bias[moved, None]).float()


def recovered(inputs: Tensor, part: Part) -> int:
    """Return how many patients of a part have a record among the inputs that were read."""
    if not len(inputs) or not part.patients:
        return 0
    a, b = (_standard(rows.flatten(1)) for rows in (inputs, part.x))
    hit = (a @ b.T).amax(dim=0) > RECOVERED
    return int(torch.unique(part.patient[hit]).numel())


def correlation(a: Tensor, b: Tensor) -> float:
    """Return Pearson's correlation over the values of two inputs; 0 where one is constant.

    >>> round(correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])), 6)
    1.0
    """
    x, y = (_standard(v.reshape(1, -1)) for v in (a, b))
    return float((x * y).sum())


def _standard(rows: Tensor) -> Tensor:
    """Return rows of mean 0 and length 1, float64; a constant row is 0."""
    centred = rows.double() - rows.double().mean(dim=1, keepdim=True)
    return torch.nan_to_num(centred / centred.norm(dim=1, keepdim=True))
