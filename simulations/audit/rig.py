"""Canaries: patients each of whom moves one direction of the weights, which nobody else moves.

For a stack of linear layers the direction is a column of the first layer that only the canary's
own input feeds, so that the audited steps are those of the closed form. Any other model gets a
linear head beside it (Steinke et al. 2023 call such canaries Dirac gradients). In both the canary's
input is M at one place and 0 elsewhere, with M so large that its gradient is longer than C and all
but a millionth of it lies in its own direction; clipped, it moves this by exactly C.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.architectures import Shape
from common.cohort.parts import Part
from common.models import Classifier
from common.params import Params
from common.privacy.perceptron import linear_layers
from simulations.audit.subject import Bench, Subject, patients

_LOUD = 1000.0  # M in units of the larger of C and 1
_DRIFT = 1e-3  # how far M times a canary's weight may get: its gradient stays what it was


class Headed(nn.Module):
    """A model beside a linear head that canaries feed, and the model's own patients do not.

    Args:
        base: The audited model.
        canaries: How many.
    """

    def __init__(self, base: Classifier, canaries: int) -> None:
        super().__init__()
        self.base = base
        self.head = nn.Linear(canaries, 1, bias=False)
        self.canaries = canaries
        self.input_shape = (canaries + 1 + int(np.prod(base.input_shape)),)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of x: (records, canaries, then 1 for a canary, then the model's input)."""
        own, is_canary, rest = torch.split(
            x, [self.canaries, 1, x.shape[1] - self.canaries - 1], dim=1
        )
        logits = self.base(rest.reshape(-1, *self.base.input_shape))
        logits = torch.where(is_canary > 0.5, torch.zeros_like(logits), logits)
        spread = F.pad(self.head(own), (1, logits.shape[1] - 2))  # the second class's logit
        return logits + spread


@dataclass(frozen=True)
class Rig:
    """An engine with canaries.

    Attributes:
        bench: Steps so small that canaries' gradients stay what they were.
        part: Canaries, one patient each and in their order, then the other patients.
        canaries: How many.
        clip: C.
    """

    bench: Bench
    part: Part
    canaries: int
    clip: float
    _weight: str
    _direction: Tensor

    def with_canaries(self, chosen: NDArray[np.bool_]) -> Part:
        """Return the patients without the canaries that are not chosen, (canaries,) bool."""
        others = np.ones(self.part.patients - self.canaries, dtype=bool)
        keep = torch.from_numpy(np.concatenate([chosen, others]))
        return self.part.select(torch.nonzero(keep[self.part.patient]).reshape(-1))

    def read(self, total: Params) -> NDArray[np.float64]:
        """Return how far a sum reaches in each canary's direction, in units of C, (canaries,)."""
        columns = total[self._weight][:, -self.canaries :]
        along: NDArray[np.float64] = (self._direction @ columns / self.clip).numpy()
        return along


def rig(
    subject: Subject,
    *,
    canaries: int,
    others: int | Part,
    steps: int,
    most_steps: int,
    records: int = 1,
    seed: int,
) -> Rig:
    """Return an engine with canaries among other patients.

    Args:
        subject: What is audited.
        canaries: How many.
        others: The patients beside them, or how many are to be invented.
        steps: Steps of one adaptation.
        most_steps: How many steps may follow each other before the weights are set back.
        records: How many records each of the others has.
        seed: Of weights and patients.
    """
    base, shape = subject.module(seed=seed), subject.plan.study.cohort.input_shape
    usual = others if isinstance(others, Part) else _invented(subject, shape, others, records, seed)
    loud, clip = _LOUD * max(1.0, subject.plan.clip), subject.plan.clip
    is_stack = linear_layers(base) is not None and records == 1
    if is_stack:
        module: Classifier | Headed = subject.module(extra=canaries, seed=seed)
    else:
        module = Headed(base, canaries).to(next(base.parameters()).device)
    weight, direction = _prepare(module, canaries, loud)
    reach = most_steps + 4 * subject.sigma * most_steps**0.5  # of a canary's weight, in steps of C
    step, declared = _DRIFT / (loud * clip * reach), canaries + usual.patients
    bench = subject.bench(module, steps=steps, step=step, declared=declared)
    part = _with_marks(usual, canaries, loud, flagged=not is_stack)
    return Rig(bench, part, canaries, clip, weight, direction)


def _invented(subject: Subject, shape: Shape, count: int, records: int, seed: int) -> Part:
    return patients(shape, count=count, records=records, classes=subject.classes, seed=seed)


def _with_marks(usual: Part, canaries: int, loud: float, *, flagged: bool) -> Part:
    """Return canaries before the usual patients: a row has marks, for a head a flag, and inputs."""
    marks = torch.cat([loud * torch.eye(canaries), torch.zeros(len(usual.y), canaries)])
    rows = torch.cat([torch.zeros(canaries, *usual.x.shape[1:]), usual.x]).flatten(1)
    is_canary = (torch.arange(len(rows)) < canaries).float()[:, None]
    count = canaries + usual.patients
    return Part(
        torch.cat([marks, is_canary, rows] if flagged else [rows, marks], dim=1),
        torch.cat([torch.zeros(canaries, dtype=torch.int64), usual.y]),
        torch.cat([torch.arange(canaries), usual.patient + canaries]),
        count,
        torch.zeros(count, 2, dtype=torch.float64),
    )


@torch.no_grad()
def _prepare(module: Classifier | Headed, canaries: int, loud: float) -> tuple[str, Tensor]:
    """Set a canary's weights to 0; return whose they are, and the way its gradient goes."""
    if isinstance(module, Headed):
        module.head.weight.zero_()
        return "head.weight", torch.ones(1, dtype=torch.float64)
    layers = linear_layers(module)
    assert layers is not None
    weight, bias = (dict(module.named_parameters())[name] for name in layers[0])
    weight[:, -canaries:] = 0
    if len(layers) > 1:
        bias.copy_(0.1 + bias.abs())  # every unit answers to a canary, and goes on doing so
    with torch.enable_grad():
        x = torch.zeros(1, module.input_shape[0], device=weight.device)
        x[0, -1] = loud
        loss = F.cross_entropy(module(x), torch.zeros(1, dtype=torch.int64, device=x.device))
        gradient = torch.autograd.grad(loss, weight)[0][:, -1].double().cpu()
    return layers[0][0], gradient / gradient.norm()
