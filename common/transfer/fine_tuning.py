"""Fine-tuning: a body that learnt elsewhere, moved by a few labelled cases under a new last layer.

Nothing computed here may leave the hospital: the weights have read its cases without noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from common.architectures import Shape
from common.cohort.parts import Part
from common.learner_spec import AugmentationSpec
from common.models import Classifier, made, predict
from common.privacy.augmentation import expanded, with_views
from common.privacy.noise import SeededSource
from common.schema import Count, Positive, Table
from common.seeds import derive
from common.study import ModelSpec
from common.transfer.cases import Cases, Method
from common.transfer.spaces import check_shape


class FineTuning(Table):
    """How body and new last layer are moved.

    Attributes:
        steps: How many.
        learning_rate: Of the last layer.
        optimizer: Adam (Kingma and Ba 2015) or plain gradient steps.
        batch: Cases a step, drawn without replacement until all have had a turn; all of them where
            it is left out.
        unfreeze_every: 0 moves all layers from the start. n moves the last layer alone for n steps,
            then one more block, from the top, every n steps: gradual unfreezing (Howard and Ruder
            2018, section 3.3).
        rate_decay: How many times slower each block moves than the one above it: discriminative
            fine-tuning (the same, section 3.1, which takes 2.6).
        weight_decay: Strength of the pull to 0, of what is moved.
        pull: Strength of the pull of the body to where it started: L2-SP (Li, Grandvalet and
            Davoine 2018).
        augmentation: How cases are altered, each anew in every step. Mirror only what has no left
            and right: a heart has.
    """

    steps: Count = 60
    learning_rate: Positive = 0.01
    optimizer: Literal["adam", "sgd"] = "adam"
    batch: Count | None = None
    unfreeze_every: Annotated[int, Field(ge=0, strict=True)] = 0
    rate_decay: Annotated[float, Field(ge=1)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    pull: Annotated[float, Field(ge=0)] = 0.0
    augmentation: AugmentationSpec | None = None


def fine_tuned(model: Classifier, how: FineTuning | None = None) -> Method:
    """Return fine-tuning of a model's body under a new last layer; the model stays as it is.

    Args:
        model: Where the body starts.
        how: Steps and rates.
    """
    return _tuning(lambda seed: copy.deepcopy(model), how or FineTuning())


def from_scratch(spec: ModelSpec, shape: Shape, how: FineTuning | None = None) -> Method:
    """Return the same from random weights, drawn anew for each seed: what transfer must beat."""
    plain = spec.model_copy(update={"weights": None, "frozen": None})
    return _tuning(lambda seed: made(plain, shape, 2, seed=seed), how or FineTuning())


def _tuning(start: Callable[[int], Classifier], how: FineTuning) -> Method:
    def learn(cases: Cases, x: Tensor, seed: int) -> Tensor:
        model = with_head(start(derive(seed, "body")), cases.ways, seed=derive(seed, "head"))
        check_shape(model, cases.x)
        _move(model, cases, how, seed=derive(seed, "steps"))
        return predict(model, x)

    return learn


def with_head(model: Classifier, ways: int, *, seed: int) -> Classifier:
    """Return the model with a new last layer, linear, for `ways` classes; its body is the same."""
    like = next(model.parameters())
    with torch.no_grad():
        width = model.eval().features(torch.zeros(1, *model.input_shape).to(like)).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(width, ways).to(like)
    name = next(name for name, module in model.named_modules() if module is model.head)
    owner, _, own = name.rpartition(".")
    setattr(model.get_submodule(owner), own, layer)
    return Classifier(model.body, input_shape=model.input_shape)


def blocks(model: Classifier) -> list[list[nn.Parameter]]:
    """Return the model's weights by block, the last layer's first, then from the top down.

    A block is a layer with the normalisation after it, or what its author made a block (a residual
    or dense one): sequences are walked through. Statistics that no gradient moves are in none.
    """
    found: list[list[nn.Parameter]] = []
    for module in _pieces(model.body):
        own = [p for n, p in module.named_parameters() if n.rpartition(".")[2] not in _STATISTICS]
        if "Norm" in type(module).__name__ and found:
            found[-1] += own
        elif own:
            found.append(own)
    return found[::-1]


_STATISTICS = ("running_mean", "running_var")


def _pieces(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers or blocks of a network, in the order in which they stand."""
    for child in module.children():
        if isinstance(child, nn.Sequential):
            yield from _pieces(child)
        else:
            yield child


def _move(model: Classifier, cases: Cases, how: FineTuning, *, seed: int) -> None:
    """Move the model's weights by the cases' mean cross-entropy."""
    groups = blocks(model)
    anchors = [[p.detach().clone() for p in group] for group in groups]
    model.requires_grad_(False)
    optimizer = _optimizer(groups, how)
    batches = _batches(cases, how, seed=seed)
    model.train()
    for step in range(how.steps):
        depth = 1 + step // how.unfreeze_every if how.unfreeze_every else len(groups)
        for group in groups[:depth]:
            for p in group:
                p.requires_grad_(True)
        x, y = next(batches)
        like = groups[0][0]
        loss = F.cross_entropy(model(x.to(like)), y.to(like.device))
        if how.pull:  # of the body alone: the last layer is new, and started nowhere
            for group, at in zip(groups[1:depth], anchors[1:depth], strict=True):
                distance = sum(((p - a) ** 2).sum() for p, a in zip(group, at, strict=True))
                loss = loss + how.pull / 2 * distance
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _optimizer(groups: list[list[nn.Parameter]], how: FineTuning) -> torch.optim.Optimizer:
    """Return the optimiser, with a slower rate the deeper a block lies."""
    rates = [how.learning_rate / how.rate_decay**depth for depth in range(len(groups))]
    named = [{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True)]
    if how.optimizer == "sgd":
        return torch.optim.SGD(named, lr=how.learning_rate, weight_decay=how.weight_decay)
    return torch.optim.AdamW(named, lr=how.learning_rate, weight_decay=how.weight_decay)


def _batches(cases: Cases, how: FineTuning, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the cases of each step, altered where they are to be; for ever."""
    generator, source = torch.Generator().manual_seed(seed), SeededSource(seed)
    once = how.augmentation and how.augmentation.model_copy(update={"copies": 1})
    count = len(cases.y)
    size = count if how.batch is None else min(how.batch, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for chosen in torch.split(order[: count // size * size], size):
            now = Part(cases.x[chosen], cases.y[chosen], torch.arange(size), size)
            altered = expanded(with_views(now, once, source))
            yield altered.x, altered.y
