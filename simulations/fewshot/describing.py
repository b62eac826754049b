"""Several descriptions of a case, from several places: what few cases need, and bodies lack."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.cohort.pixels import encode_image
from common.cohort.schema import Image, Pixels
from common.errors import StudyError
from common.models import Classifier
from common.transfer.cases import Cases, Method

_FLAT = 1e-9  # nothing is divided by less
_COARSE = 16  # pixels a side
_CELLS = 4  # a side, of a lower layer's map
_SHIFT = 20  # a side of the image is so many shifts: 3 pixels of 64


def side_by_side(learn: Method, widths: list[int]) -> Method:
    """Return a method on several descriptions of a case, each as loud as the others.

    Each column is centred and divided by its spread over the labelled cases (and a tenth of its
    description's mean spread, as a few cases can agree by chance), then each description by the
    root mean square length of the labelled cases in it.

    Args:
        learn: On rows of all descriptions.
        widths: How many columns each description has, in their order.
    """

    def learn_from_all(labelled: Cases, x: Tensor, seed: int) -> Tensor:
        rows, queries = [], []
        pairs = zip(torch.split(labelled.x, widths, 1), torch.split(x, widths, 1), strict=True)
        for own, other in pairs:
            mean, spread = own.mean(0), own.std(0, correction=0)
            spread = spread + 0.1 * spread.mean() + _FLAT
            own, other = (own - mean) / spread, (other - mean) / spread
            length = own.square().sum(1).mean().sqrt() + _FLAT
            rows.append(own / length)
            queries.append(other / length)
        scaled = Cases(torch.cat(rows, 1), labelled.y, labelled.ways)
        return learn(scaled, torch.cat(queries, 1), seed)

    return learn_from_all


def shifts(x: Tensor) -> list[Tensor]:
    """Return pictures as they are, and moved diagonally four ways; the edge is repeated."""
    far = max(1, round(x.shape[-1] / _SHIFT))
    padded = F.pad(x, (far, far, far, far), mode="replicate")
    height, width = x.shape[-2:]
    places = [(far, far), *((2 * far * i, 2 * far * j) for i in (0, 1) for j in (0, 1))]
    return [padded[..., i : i + height, j : j + width] for i, j in places]


def over_shifts(learn: Method) -> Method:
    """Return a method whose cases and queries are seen in several places, (cases, places, ...).

    It learns from all places of a labelled case; a query has the geometric mean of the
    probabilities of its own.
    """

    def learn_over(labelled: Cases, x: Tensor, seed: int) -> Tensor:
        places = x.shape[1]
        flat = Cases(labelled.x.flatten(0, 1), labelled.y.repeat_interleave(places), labelled.ways)
        found = learn(flat, x.flatten(0, 1), seed).clamp(min=torch.finfo(torch.float64).tiny)
        return found.log().reshape(len(x), places, -1).mean(1).softmax(1)

    return learn_over


def coarse(x: Tensor) -> Tensor:
    """Return pictures standardised by themselves and pooled to 16 pixels a side, one row a case."""
    fixed = Pixels(kind="pixels", size=min(_COARSE, x.shape[-1]), standardise=True)
    image = Image(size=x.shape[-1], channels=3 if x.shape[1] == 3 else 1, maps=(fixed,))
    pictures = ((x.double() + 1) * 127.5).permute(0, 2, 3, 1).float().numpy()
    rows = np.stack([encode_image(picture, image) for picture in pictures])
    return torch.from_numpy(rows).double()


@torch.no_grad()
def levels(model: Classifier, x: Tensor, *, chunk: int = 256) -> Tensor:
    """Return what the body's lower blocks see of each case, one row a case, float64.

    After each pooling but the first and the last, whose output the body's features are.

    Raises:
        StudyError: the body has no such layers.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.MaxPool2d)][1:-1]
    if not layers:
        raise StudyError(
            "a method of simulation.fewshot has '+levels', and the model has no lower layers that "
            "are pooled",
            remedy="use model.name = 'conv4', or leave '+levels' out",
        )
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out: seen.append(F.adaptive_avg_pool2d(out, _CELLS).flatten(1))
        )
        for layer in layers
    ]
    rows = []
    try:
        for piece in torch.split(x, chunk):
            seen.clear()
            model(piece)
            rows.append(torch.cat(seen, dim=1).double())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(rows)
