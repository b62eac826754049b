"""Initial weights that come from a file beside the study: safetensors, never a pickle."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from common.errors import StudyError
from common.params import Params, head_of, misfit
from common.study import ModelSpec


def read_weights(path: Path, like: Params, spec: ModelSpec) -> Params:
    """Return a file's weights under a model's names.

    Args:
        path: A safetensors file.
        like: The model's own; they stand in for a head that the file of a frozen body lacks.
        spec: The model.

    Raises:
        StudyError: there is no such file, it is none, or its weights are another model's.
    """
    if not path.is_file():
        raise StudyError(
            f"model.weights is {str(path)!r}, and there is no such file",
            remedy="give the path of a .safetensors file, or leave model.weights out",
        )
    try:
        weights = load_file(path)
    except Exception as error:  # safetensors raises its own type, without a public name
        raise StudyError(
            f"model.weights is {str(path)!r}, which is not a safetensors file ({error})",
            remedy="save the weights with safetensors.torch.save_file",
        ) from error
    head = head_of(like) if spec.frozen else frozenset()
    if spec.name == "backbone":
        weights = _of_torchvision(weights, like, path, spec)
    if head.isdisjoint(weights):  # a body that learnt something else has no such head
        weights |= {k: like[k] for k in head}
    reason = misfit(weights, like)
    if reason is not None:
        raise StudyError(
            f"model.weights is {str(path)!r}, which does not fit the model: {reason}",
            remedy="use weights saved from the same model, input size and classes; where "
            "model.frozen is 'body' the head may be left out",
        )
    return weights


def _of_torchvision(weights: Params, like: Params, path: Path, spec: ModelSpec) -> Params:
    """Return the weights of a torchvision file under the model's names.

    Raises:
        StudyError: they are another network's.
    """
    from common.transfer.backbone import architecture_of, renamed

    found = renamed(weights, like)
    body = {k: v for k, v in like.items() if k not in head_of(like)}
    reason = misfit({k: v for k, v in found.items() if k not in head_of(like)}, body)
    if reason is None:
        return found
    other = architecture_of(weights)
    what = "another network" if other is None else f"a {other}"
    raise StudyError(
        f"model.weights is {str(path)!r}, which is of {what}, and model.backbone is "
        f"{spec.backbone!r}: {reason[:200]}",
        remedy="give the file of that network's weights as torchvision publishes them, or name "
        "the network that the file is of in model.backbone",
    )
