"""The learned map of Meta Networks: from a released gradient to a change of the weights.

Coordinate by coordinate, with g the gradient's coordinate in tensor t and alpha the study's rate:

    m(g; psi) = -alpha e^s g,    s = B tanh((r_t + o . tanh(W z + c)) / B),    z = pre(g)

psi holds a log-rate r_t for each tensor (alone, it is Meta-SGD of Li et al. 2017 with one rate a
tensor) and a small network (W, c, o) that all coordinates share, as in Munkhdalai and Yu 2017,
section 2.1.3. `pre` is Andrychowicz et al. 2016, appendix A (p = 10): (log|g| / p, sign g) where
|g| >= e^-p, else (-1, e^p g). It lets the map learn how large a coordinate must be to stand out of
the noise. o and r start at 0: the first fast weights are a plain gradient step. B bounds the
factor, which noise on psi could else make anything.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import grad, vmap

from common.errors import StudyError
from common.generator_spec import MOST_HELD, MetaNetSpec
from common.params import Params, flatten, unflatten

RATES, WEIGHT, BIAS, OUT = "map.rates", "map.weight", "map.bias", "map.out"
MAP = (RATES, WEIGHT, BIAS, OUT)
"""The names of psi among a study's weights."""

_P = 10.0
_BOUND = math.log(100.0)
_AT_ONCE = 2**14  # coordinates: each holds a few times what the network has of weights


def start_of_map(spec: MetaNetSpec, trained: Params, *, seed: int) -> Params:
    """Return psi as a run starts with it.

    Args:
        spec: How wide its network is.
        trained: The weights that the map moves; their names and shapes count.
        seed: Of the network's first layer.

    Raises:
        StudyError: what the map says of so many weights would be too much to hold.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    width = spec.hidden
    weight = torch.randn(width, 2, generator=generator, device="cpu")
    psi = {
        RATES: torch.zeros(len(trained), device="cpu"),
        WEIGHT: weight,
        BIAS: torch.randn(width, generator=generator, device="cpu"),
        OUT: torch.zeros(width, device="cpu"),
    }
    size, own = (sum(v.numel() for v in p.values()) for p in (trained, psi))
    if size * own > MOST_HELD:
        raise StudyError(
            f"learner.name is 'metanet' and the model trains {size:,} weights: the slopes of a "
            f"map of {own} weights would be {size * own:,} values, above {MOST_HELD:,}",
            remedy="lower learner.metanet.hidden, freeze the body (model.frozen = 'body'), or use "
            "a smaller model",
        )
    return psi


def parted(weights: Params) -> tuple[Params, Params]:
    """Return a study's weights without psi, and psi."""
    slow = {name: value for name, value in weights.items() if name not in MAP}
    return slow, {name: weights[name] for name in MAP}


def fast(gradient: Params, psi: Params, *, rate: float) -> Params:
    """Return m(gradient; psi), differentiable in psi.

    Args:
        gradient: A released mean gradient, of the weights that are trained.
        psi: The map.
        rate: alpha.

    >>> psi = start_of_map(MetaNetSpec(), {"w": torch.zeros(1)}, seed=0)
    >>> fast({"w": torch.tensor([0.5])}, psi, rate=0.1)["w"].item()
    -0.05000000074505806
    """
    own = psi[RATES][_tensor_of(gradient)]
    return unflatten(_moves(flatten(gradient), own, psi, rate), gradient)


def slopes(gradients: list[Params], psi: Params, *, rate: float) -> Tensor:
    """Return d sum_k m(g_k; psi) / d psi, (weights, psi), both flattened."""
    tensor = _tensor_of(gradients[0])
    shared = {name: psi[name] for name in MAP if name != RATES}

    def move(g: Tensor, own: Tensor, network: Params) -> Tensor:
        return _moves(g[None], own[None], network, rate)[0]

    of_one = vmap(grad(move, argnums=(1, 2)), in_dims=(0, 0, None), chunk_size=_AT_ONCE)
    total = torch.zeros(len(tensor), sum(v.numel() for v in psi.values())).to(psi[RATES])
    for gradient in gradients:
        rates, network = of_one(flatten(gradient), psi[RATES][tensor], shared)
        total[torch.arange(len(tensor)), tensor] += rates
        total[:, len(psi[RATES]) :] += torch.cat([network[k].flatten(1) for k in shared], dim=1)
    return total


def _tensor_of(gradient: Params) -> Tensor:
    """Return the number of the tensor that each coordinate is of, (weights,)."""
    sizes = torch.tensor([v.numel() for v in gradient.values()])
    return torch.arange(len(sizes)).repeat_interleave(sizes)


def _moves(g: Tensor, own: Tensor, psi: Params, rate: float) -> Tensor:
    """Return m of coordinates g whose tensors' log-rates are `own`, all (coordinates,)."""
    shared = torch.tanh(_preprocessed(g) @ psi[WEIGHT].T + psi[BIAS]) @ psi[OUT]
    return -rate * torch.exp(_BOUND * torch.tanh((own + shared) / _BOUND)) * g


def _preprocessed(g: Tensor) -> Tensor:
    """Return pre(g), (coordinates, 2)."""
    size = g.abs()
    large = size >= math.exp(-_P)
    logs = torch.log(torch.where(large, size, torch.ones_like(size))) / _P
    first = torch.where(large, logs, -torch.ones_like(g))
    second = torch.where(large, torch.sign(g), math.exp(_P) * g)
    return torch.stack([first, second], dim=1)
