"""One image on its own: from pixels of any size, grey or colour, to the study's inputs.

Nothing here looks at a second image. A brightness follows from the range that the file's format
declares, not from the image's own darkest or brightest pixel; only maps that a study declares are
relative to the image itself (`hog`, and `pixels` with `standardise`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from common.cohort.schema import Hog, Image, Pixels

Floats = NDArray[np.float32]

# Below, nothing is left to see; above (plain radiographs have 2,000 to 4,500) it is no patient's.
SMALLEST, LARGEST = 28, 8192

# A standard deviation of blocks, of values in [-1, 1], below a quarter of one grey level of 256.
_FLAT = 1 / 512

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


class UnusableImage(Exception):
    """One image that cannot be used.

    Args:
        reason: What is wrong, to follow the image's name.
        remedy: What to do about it.
    """

    def __init__(self, reason: str, *, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def check_sides(height: int, width: int, image: Image) -> None:
    """Refuse an image that is too small or too large, before its pixels are decoded.

    Raises:
        UnusableImage: a side is out of bounds, and the image is not of the study's own size.
    """
    if (height, width) == (image.size, image.size):
        return
    if min(height, width) < SMALLEST or max(height, width) > LARGEST:
        raise UnusableImage(
            f"is {height}x{width} pixels; sides of {SMALLEST} to {LARGEST} are resized to the "
            f"study's {image.size}",
            remedy="export it within those sizes, or leave it out",
        )


def encode_image(pixels: Floats, image: Image) -> Floats:
    """Return an image's inputs, of `image.input_shape`.

    Args:
        pixels: (height, width, 1 or 3), 0 to 255.
        image: Size, channels and maps.
    """
    square = _square(_recolour(pixels, image.channels), image.size)
    scaled = square / np.float32(127.5) - 1
    if not image.maps:
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))
    found = []
    for fixed in image.maps:
        # Gradients are taken of whole numbers: rounding would move ties from bin to bin.
        values = _hog(square, fixed) if isinstance(fixed, Hog) else _pool(scaled, fixed)
        found.append((values - np.float32(fixed.center)) / np.float32(fixed.scale))
    return np.concatenate(found)


def _recolour(pixels: Floats, channels: int) -> Floats:
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return (pixels @ _LUMA)[..., None]


def _square(pixels: Floats, size: int) -> Floats:
    """Resize the longer side to `size` and pad the shorter one with black, half on each side.

    The filter is a triangle as wide as the reduction: it averages what it drops, and unlike cubic
    filters never leaves the range of its inputs. Channels stay numbers, so no depth is lost.
    """
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    longest = max(height, width)
    rows, columns = (max(1, round(side * size / longest)) for side in (height, width))
    square = np.zeros((size, size, pixels.shape[2]), dtype=np.float32)
    top, left = (size - rows) // 2, (size - columns) // 2
    for channel in range(pixels.shape[2]):
        plane = Pillow.fromarray(np.ascontiguousarray(pixels[..., channel], dtype=np.float32))
        resized = plane.resize((columns, rows), Pillow.Resampling.BILINEAR)
        square[top : top + rows, left : left + columns, channel] = np.asarray(resized)
    return np.clip(square, 0, 255)


def _hog(square: Floats, fixed: Hog) -> Floats:
    """Return gradient histograms; of colours the strongest counts."""
    from skimage.feature import hog  # only studies with this map wait for it

    is_grey = square.shape[2] == 1
    values = hog(
        square[..., 0] if is_grey else square,
        orientations=fixed.orientations,
        pixels_per_cell=(fixed.pixels_per_cell, fixed.pixels_per_cell),
        cells_per_block=(fixed.cells_per_block, fixed.cells_per_block),
        block_norm="L2-Hys",
        channel_axis=None if is_grey else -1,
    )
    return np.asarray(values, dtype=np.float32)


def _pool(square: Floats, fixed: Pixels) -> Floats:
    """Return block means, (channels * size * size,), channels first as in an image's inputs."""
    size, block = fixed.size, square.shape[0] // fixed.size
    blocks = square.reshape(size, block, size, block, square.shape[2])
    means = np.asarray(blocks.mean(axis=(1, 3)).transpose(2, 0, 1).ravel(), dtype=np.float32)
    if not fixed.standardise:
        return means
    spread = float(means.std())
    # A flat image has rounding for a spread: dividing by it would make a picture of nothing.
    return np.zeros_like(means) if spread < _FLAT else (means - means.mean()) / np.float32(spread)
