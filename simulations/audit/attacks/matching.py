"""Gradient matching: the input whose gradient points where the delta does.

Minimises over x, by Adam on the signs of its own gradient,

    1 - cos(grad_w L(x, y; theta), -delta) + tau TV(x)

with total variation TV for pictures (Geiping et al. 2020, "Inverting gradients"). The outcome y is
read off the last bias: a delta moves up the true class alone (Zhao et al. 2020, iDLG).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from common.params import Params, flatten

_STEP = 0.1
_VARIATION = 1e-5  # tau
_DROPS = (3 / 8, 5 / 8, 7 / 8)  # of the iterations, where the step falls to a tenth


def matched(
    module: nn.Module,
    theta: Params,
    goal: Params,
    shape: torch.Size,
    *,
    iterations: int,
    seed: int,
) -> Tensor:
    """Return the matched input, of `shape`: (1, *input_shape).

    Args:
        module: The model; its own weights do not matter.
        theta: Where the gradient is taken.
        goal: The patient's share of a delta.
        shape: Of the answer.
        iterations: How many steps of Adam.
        seed: Of the noise to start from.
    """
    aim = -flatten(goal)
    y = list(goal.values())[-1].argmax().reshape(1)
    weights = {name: value.clone().requires_grad_() for name, value in theta.items()}
    generator = torch.Generator().manual_seed(seed % 2**63)
    x = (0.1 * torch.randn(shape, generator=generator)).requires_grad_()
    adam = torch.optim.Adam([x], lr=_STEP)
    marks = [round(share * iterations) for share in _DROPS]
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, marks, 0.1)
    for _ in range(iterations):
        loss = F.cross_entropy(functional_call(module, weights, (x,)), y)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        own = torch.cat([g.reshape(-1) for g in gradients])
        objective = 1 - F.cosine_similarity(own, aim, dim=0) + _VARIATION * _variation(x)
        x.grad = torch.autograd.grad(objective, x)[0].sign()
        adam.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(-1, 1)  # where encoded pixels lie
    return x.detach()


def _variation(x: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels; 0 for a table."""
    if x.dim() < 4:
        return x.new_zeros(())
    return x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()
