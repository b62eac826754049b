"""A hypernetwork at the server: weights for each hospital, made from what was learnt of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from common.generator_spec import HypernetworkSpec
from common.learners.inner import private_steps
from common.learners.outer import moved, shares_of
from common.learners.types import Contribution, Learner, State
from common.models import trained
from common.params import Params, flatten, unflatten
from common.plan import Plan
from common.seeds import derive

_EMBEDDING, _LAYER, _OUT, _COMMON = "embedding.", "layer.", "out.weight", "out.bias"


def hypernetwork(plan: Plan) -> Learner:
    """pFedHN (Shamsian et al. 2021, "Personalized federated learning using hypernetworks").

    Hospital i starts its round from weights of its own, which the server makes of an embedding v_i:

        theta_i = h(v_i; phi) = b + sqrt(rate / H) W f(v_i),    f: layers of tanh, the last H wide

    It takes K private steps from there and releases delta_i as in Reptile. With s_i its share, by
    declared size or equal, the server moves phi = (W, b, f's) and all v along

        d/d(phi, v) sum_i s_i <h(v_i; phi), delta_i>  =  sum_i s_i (d theta_i / d(phi, v))^T delta_i

    by the study's server step: the paper's update, with -delta_i for the gradient of the hospital's
    loss (its section 3.2), for all hospitals at once. The step moves theta_i along
    sum_j s_j (1 + rate f_i . f_j / H) delta_j and what v and f add: what is common as Reptile does,
    and what is its own as far as the embeddings are alike. b starts as the study's initial weights
    and W as 0, so that the first round is Reptile's; the features are scaled by 1 / sqrt(H), and
    bounded by tanh where the paper has ReLU, so that neither width nor noise changes what `rate`
    means.

    v_i starts as a normal draw named by the site's public name, that of a site that comes later as
    the mean of the others'. The weights for nobody in particular (`State.params`), for a
    hospital that took no part, are h of the mean of all embeddings.

    Guarantees
        What a hospital releases is post-processing of K Poisson-subsampled Gaussians on its own
        training patients, as Reptile's delta, whatever weights it was sent to start from. phi and v
        are functions of released deltas, public sizes and public names, and so are all theta_i:
        post-processing, adaptively composed over rounds (Dwork and Roth 2014, proposition 2.1 and
        theorem 3.16), so that no hospital pays for being told apart, nor for what it or others get.
        v_i says of a hospital no more than its deltas, which the server has.
    """
    spec, server = plan.study.learner.hypernetwork, plan.study.server
    assert spec is not None  # LearnerSpec fills it in
    factor = math.sqrt(spec.rate / spec.hidden[-1])

    def init(params: Params) -> State:
        return State(params, own=_start(spec, trained(plan.study, params)))

    def personal(state: State, site: str) -> Params:
        return _with(state.params, state.own, _embedding_of(spec, state.own, site))

    def _with(params: Params, own: Params, embedding: Tensor) -> Params:
        target = trained(plan.study, params)
        made = _made(own, embedding[None], factor)[0]
        return {**params, **unflatten(made, target)}

    def apply(state: State, contributions: Sequence[Contribution]) -> State:
        new = {
            _EMBEDDING + c.site: _embedding_of(spec, state.own, c.site)
            for c in contributions
            if _EMBEDDING + c.site not in state.own
        }
        own = {**state.own, **new}
        direction = _direction(own, contributions, factor, weights=server.weights)
        after = moved(server, State(own, state.moments, state.round), direction)
        params = _with(state.params, after.params, _mean_embedding(after.params))
        return State(params, after.moments, after.round, own=after.params)

    return Learner("hypernetwork", init, private_steps(plan), apply, personal=personal)


def _start(spec: HypernetworkSpec, target: Params) -> Params:
    """Return phi as a run starts with it; random layers follow from the initial weights."""
    values = flatten(target)
    mark = hashlib.sha256(np.ascontiguousarray(values.numpy()).data).hexdigest()
    generator = torch.Generator().manual_seed(derive(0, "hypernetwork", mark))
    own: Params = {}
    for number, (before, after) in enumerate(pairwise([spec.embedding, *spec.hidden])):
        weight = torch.randn(after, before, generator=generator) / math.sqrt(before)
        own[f"{_LAYER}{number}.weight"] = weight.to(values)
        own[f"{_LAYER}{number}.bias"] = torch.zeros(after).to(values)
    own[_OUT] = torch.zeros(values.numel(), spec.hidden[-1]).to(values)
    own[_COMMON] = values.clone()
    return own


def _embedding_of(spec: HypernetworkSpec, own: Params, site: str) -> Tensor:
    """Return a site's embedding; of a new one the mean, or at the start a draw of its name."""
    if _EMBEDDING + site in own:
        return own[_EMBEDDING + site]
    if any(name.startswith(_EMBEDDING) for name in own):
        return _mean_embedding(own)
    generator = torch.Generator().manual_seed(derive(0, "embedding", site))
    return torch.randn(spec.embedding, generator=generator).to(own[_COMMON])


def _mean_embedding(own: Params) -> Tensor:
    return torch.stack([own[n] for n in sorted(own) if n.startswith(_EMBEDDING)]).mean(0)


def _made(own: Params, embeddings: Tensor, factor: float) -> Tensor:
    """Return h of embeddings (sites, embedding): flattened weights, (sites, weights)."""
    features, number = embeddings, 0
    while f"{_LAYER}{number}.weight" in own:
        layer = f"{_LAYER}{number}"
        features = torch.tanh(features @ own[f"{layer}.weight"].T + own[f"{layer}.bias"])
        number += 1
    return own[_COMMON] + factor * features @ own[_OUT].T


def _direction(
    own: Params, contributions: Sequence[Contribution], factor: float, *, weights: str
) -> Params:
    """Return sum_i s_i (d theta_i / d own)^T delta_i; 0 for the embeddings of other sites."""
    leaves = {name: value.clone().requires_grad_() for name, value in own.items()}
    embeddings = torch.stack([leaves[_EMBEDDING + c.site] for c in contributions])
    shares = shares_of(contributions, weights=weights)
    deltas = torch.stack(
        [s * flatten(c.delta) for s, c in zip(shares, contributions, strict=True)]
    ).to(own[_COMMON])
    along = (_made(leaves, embeddings, factor) * deltas).sum()
    found = torch.autograd.grad(along, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(own[name]) if slope is None else slope.contiguous()
        for name, slope in zip(leaves, found, strict=True)
    }
