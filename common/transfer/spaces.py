"""What pictures are described by: their pixels, gradients' histograms, a body's features.

Each function maps cases one by one, (cases, *shape) to (cases, numbers), so the features of all of
a hospital's pictures are computed once, and any few of them are rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.cohort.pixels import encode_image
from common.cohort.schema import Hog, Image
from common.errors import DataError
from common.models import Classifier
from common.models import features as features_of

_WHOLE = 1024  # parts of a grey level that are kept: whole levels stay whole
_CELLS = 7  # of histograms along a side


def pixels(x: Tensor) -> Tensor:
    """Return the inputs as they are, one row a case, float64.

    >>> pixels(torch.zeros(2, 1, 4, 4)).shape
    torch.Size([2, 16])
    """
    return x.flatten(1).double()


def hog(x: Tensor, fixed: Hog | None = None) -> Tensor:
    """Return histograms of oriented gradients (Dalal and Triggs 2005), float64.

    Args:
        x: Pictures, (cases, channels, size, size), values in [-1, 1].
        fixed: Cells and orientations; by default 9 orientations in 7 x 7 cells, each
            normalised by itself.

    Raises:
        DataError: the cases are no pictures.
    """
    if x.dim() != 4:
        raise DataError(
            f"cases of shape {tuple(x.shape[1:])} are no pictures, so they have no gradients",
            remedy="describe them by 'pixels' (a table's own numbers) or by a body's features",
        )
    size = x.shape[-1]
    fixed = fixed or Hog(kind="hog", orientations=9, pixels_per_cell=max(2, size // _CELLS))
    image = Image(size=size, channels=3 if x.shape[1] == 3 else 1, maps=(fixed,))
    levels = (x.double() + 1) * 127.5
    levels = (levels * _WHOLE).round() / _WHOLE  # as the reader had them: see encode_image
    pictures = levels.permute(0, 2, 3, 1).float().numpy()
    rows = [encode_image(picture, image) for picture in pictures]
    return torch.from_numpy(np.stack(rows)).double()


def features(model: Classifier, x: Tensor, *, chunk: int = 1024) -> Tensor:
    """Return what the last layer of a model sees of each case, float64, on the processor.

    Args:
        model: Its own weights are used.
        x: (cases, *model.input_shape).
        chunk: How many cases at once.

    Raises:
        DataError: the cases are not what the model takes.
    """
    check_shape(model, x)
    return features_of(model, x, chunk=chunk).double()


def check_shape(model: Classifier, x: Tensor) -> None:
    """Refuse cases of another size or depth than the model takes.

    Raises:
        DataError: they are.
    """
    if tuple(x.shape[1:]) == tuple(model.input_shape):
        return
    given, taken = ("x".join(map(str, shape)) for shape in (x.shape[1:], model.input_shape))
    raise DataError(
        f"cases are of shape {given}, and the model takes {taken} (channels, height, width)",
        remedy="encode them as the study does that the model is of (cohort.image)",
    )


def together(*spaces: Tensor) -> Tensor:
    """Return several descriptions of the same cases side by side, each as loud as the others.

    Each is divided by the root of its number of columns: a long one does not drown a short one.
    """
    return torch.cat([space / space.shape[1] ** 0.5 for space in spaces], dim=1)
