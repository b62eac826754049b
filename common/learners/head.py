"""A model as a body, which may be shared, and a head: its last layer."""

from __future__ import annotations

from collections.abc import Collection

from common.errors import StudyError
from common.params import Params


def head_of(params: Params) -> frozenset[str]:
    """Return the names of the last layer's weights.

    Raises:
        StudyError: the last layer is the whole model.

    >>> import torch
    >>> names = ("body.1.weight", "body.1.bias", "body.3.weight", "body.3.bias")
    >>> sorted(head_of({name: torch.zeros(1) for name in names}))
    ['body.3.bias', 'body.3.weight']
    """
    last = [*params][-1].rpartition(".")[0]
    head = frozenset(name for name in params if name.rpartition(".")[0] == last)
    if len(head) == len(params):
        raise StudyError(
            "model has one layer, so that nothing would be shared under a head that stays",
            remedy="choose model.name = 'mlp', 'conv4' or 'resnet18', or another learner",
        )
    return head


def moved(params: Params, change: Params, names: Collection[str], *, scale: float) -> Params:
    """Return `params + scale * change` in the named weights; the others stay."""
    return {k: v + scale * change[k] if k in names else v for k, v in params.items()}
