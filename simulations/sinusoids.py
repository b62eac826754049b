"""The papers' sinusoids: regression from ten points, by the learners that studies use.

A task is y = A sin(x + p) with A in [.1, 5], p in [0, pi] and x in [-5, 5] (Finn, Abbeel and Levine
2017, section 5.1). `python -m simulations.sinusoids` prints the mean squared error on new tasks
after 0, 1, 5 and 10 gradient steps on ten points, and exits with 1 where an error is not what it is
for an implementation that is right (`GATES`); some minutes. Reptile was made for tasks of 50 points
and is shown with both.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from torch.func import functional_call, vmap

from common.cohort.parts import Part
from common.learners import learner_for
from common.learners.maml import gradient_steps, meta_gradient
from common.learners.types import Contribution, Patients
from common.models import params_of
from common.objectives import Objective
from common.params import Params
from common.plan import compile_study
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.study import parse_study

AFTER = (0, 1, 5, 10)
_SHOTS, _META_BATCH, _RATE = 10, 25, 0.01
_POINTS, _REPTILE_RATE, _OUTER = 50, 0.02, 0.1
_NEW = 600  # tasks of a test


@dataclass(frozen=True)
class Gate:
    """What an error after some steps has to be."""

    method: str
    steps: int
    below: float = math.inf
    above: float = 0.0


GATES = (
    Gate("maml", 1, below=0.45),
    Gate("maml", 10, below=0.15),
    Gate("reptile", 5, below=0.15),
    Gate("random", 0, above=4.0),
)
"""Of trainings at full length: MAML and FOMAML 15,000 iterations, Reptile 30,000."""


def tasks(count: int, points: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return x and y of new tasks, each (tasks, points, 1)."""
    amplitude = torch.rand(count, 1, 1, generator=rng) * 4.9 + 0.1
    phase = torch.rand(count, 1, 1, generator=rng) * math.pi
    x = torch.rand(count, points, 1, generator=rng) * 10 - 5
    return x, amplitude * torch.sin(x + phase)


class Net(nn.Module):
    """A perceptron of two hidden layers from a number to a number."""

    objective = Objective("squared_error", lambda out, y: (out[:, 0] - y).square(), nn.Identity())

    def __init__(self, width: int, activation: type[nn.Module], *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Linear(1, width), activation(), nn.Linear(width, width), activation(),
                nn.Linear(width, 1),
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return y, (points, 1), of x (points, 1)."""
        found: Tensor = self.body(x)
        return found


def squared_error(net: nn.Module, params: Params, cases: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean squared error at those weights."""
    x, y = cases
    return F.mse_loss(functional_call(net, params, (x,)), y)


def maml(*, iterations: int, seed: int, first_order: bool = False) -> tuple[Net, Params]:
    """Meta-train by MAML or its first-order form: 25 tasks an iteration, one step, Adam."""
    net, rng = Net(40, nn.ReLU, seed=seed), torch.Generator().manual_seed(seed)
    weights = {k: p.detach().requires_grad_() for k, p in net.named_parameters()}
    optimizer = torch.optim.Adam(list(weights.values()), lr=1e-3)

    def one(theta: Params, x: Tensor, y: Tensor, asked: Tensor, answer: Tensor) -> Params:
        return meta_gradient(
            lambda phi, cases: squared_error(net, phi, cases),
            theta,
            (x, y),
            (asked, answer),
            steps=1,
            learning_rate=_RATE,
            first_order=first_order,
        )

    of_all = vmap(one, in_dims=(None, 0, 0, 0, 0))
    for _ in range(iterations):
        x, y = tasks(_META_BATCH, 2 * _SHOTS, rng)
        parts = (x[:, :_SHOTS], y[:, :_SHOTS], x[:, _SHOTS:], y[:, _SHOTS:])
        theta = {k: v.detach() for k, v in weights.items()}
        for name, gradient in of_all(theta, *parts).items():
            weights[name].grad = gradient.mean(0)
        optimizer.step()
    return net, {k: v.detach() for k, v in weights.items()}


def reptile(*, iterations: int, seed: int) -> tuple[Net, Params]:
    """Meta-train by the learner of studies: one task a round, five steps on some of 50 points."""
    plan = compile_study(
        parse_study(
            {
                "name": "sinusoids",
                "cohort": {
                    "label": {"classes": ["no class", "a number"]},
                    "features": [{"name": "x", "range": [-5, 5]}],
                    "train_fraction": 0.5,
                },
                "learner": {
                    "local_steps": 5,
                    "learning_rate": _REPTILE_RATE,
                    "sampling_rate": 0.2,
                },
                "server": {"learning_rate": _OUTER, "decay": "linear"},
                "rounds": {"count": iterations},
            },
            origin="sinusoids",
        )
    )
    net, rng, source = Net(64, nn.Tanh, seed=seed), torch.Generator(), SeededSource(seed)
    rng.manual_seed(seed)
    learner, model = learner_for(plan), PrivateModel(net)
    state = learner.init(params_of(net))
    who = torch.arange(_POINTS)
    for _ in range(iterations):
        x, y = tasks(1, _POINTS, rng)
        part = Part(x[0], y[0, :, 0], who, _POINTS)
        delta = learner.adapt(model, state.params, Patients(part, 2 * _POINTS), source)
        state = learner.apply(state, [Contribution(2 * _POINTS, delta)])
    return Net(64, nn.Tanh, seed=seed), state.params


def errors(
    net: Net, params: Params, *, learning_rate: float, seed: int, shots: int = _SHOTS
) -> dict[int, float]:
    """Return the mean error on new tasks after gradient steps on so many points."""
    rng = torch.Generator().manual_seed(seed + 1_000_003)
    x, y = tasks(_NEW, shots + 100, rng)

    def one(x: Tensor, y: Tensor) -> Tensor:
        def loss(phi: Params, cases: tuple[Tensor, Tensor]) -> Tensor:
            return squared_error(net, phi, cases)

        few, phi, found = (x[:shots], y[:shots]), params, []
        for before, after in zip((0, *AFTER), AFTER, strict=False):
            phi = gradient_steps(loss, phi, few, steps=after - before, learning_rate=learning_rate)
            found.append(loss(phi, (x[shots:], y[shots:])))
        return torch.stack(found)

    means = vmap(one)(x, y).mean(0).tolist()
    return dict(zip(AFTER, means, strict=True))


def table(*, share: float = 1.0, seed: int = 0) -> dict[str, dict[int, float]]:
    """Return method -> steps -> error, of trainings at a share of their full length."""
    short, long = int(15_000 * share), int(30_000 * share)
    found = {"random": errors(*maml(iterations=0, seed=seed), learning_rate=_RATE, seed=seed)}
    for name, first_order in (("maml", False), ("fomaml", True)):
        trained = maml(iterations=short, seed=seed, first_order=first_order)
        found[name] = errors(*trained, learning_rate=_RATE, seed=seed)
    trained = reptile(iterations=long, seed=seed)
    for name, shots in (("reptile", _POINTS), ("reptile, ten points", _SHOTS)):
        found[name] = errors(*trained, learning_rate=_REPTILE_RATE, seed=seed, shots=shots)
    return found


def missed(found: dict[str, dict[int, float]]) -> list[Gate]:
    """Return the gates that the errors do not pass."""
    return [g for g in GATES if not g.above < found[g.method][g.steps] < g.below]


def main(
    seed: Annotated[int, typer.Option(min=0, help="Of weights and tasks.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the errors as JSON.")] = False,
) -> None:
    """Meta-train on sinusoids by MAML, FOMAML and Reptile, and hold the errors to the papers'."""
    torch.set_num_threads(1)
    found = table(seed=seed)
    failed = missed(found)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo(
            "mean squared error after" + "".join(f"{steps:>8}" for steps in AFTER) + " steps"
        )
        for name, row in found.items():
            typer.echo(f"{name:24}" + "".join(f"{row[steps]:8.3f}" for steps in AFTER))
        for gate in failed:
            typer.echo(f"not as it should be: {gate}")
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
