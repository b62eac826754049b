"""One DICOM file as numbers from 0 to 255, as its own header says they are to be shown.

The order is the standard's (PS3.3 C.11): stored values, rescale or modality table, window or
value-of-interest table, and MONOCHROME1 inverted at the end. Of several windows the first counts.
Without a window the range that the stored bits can express, rescaled, maps to [0, 255].
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.cohort.pixels import Floats, UnusableImage, check_sides
from common.cohort.schema import Image

if TYPE_CHECKING:
    from pydicom import Dataset

Values = NDArray[np.float64]

_GREY = {"MONOCHROME1", "MONOCHROME2"}
# Decoders hand the last two, which only JPEG 2000 has, back as RGB.
_COLOUR = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
_PALETTE = "PALETTE COLOR"
_CUT = "it is cut off: export it again"
_FLOAT_PIXELS = {"FloatPixelData", "DoubleFloatPixelData"}
# PS3.3 C.7.6.3: no image without them can be shown.
_NEEDED = ("Rows", "Columns", "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated",
           "BitsStored", "PixelRepresentation")  # fmt: skip


def read_dicom(raw: bytes, image: Image) -> Floats:
    """Return the pixels of a DICOM file, (height, width, 1 or 3), 0 to 255.

    Raises:
        UnusableImage: it has no pixels, several frames, an unknown colour model, or a compression
            that cannot be decoded here. Damaged bytes raise whatever pydicom raises.
    """
    from pydicom import dcmread  # only sites with DICOM files wait for it
    from pydicom.pixels import apply_color_lut, pixel_array

    try:
        dataset = dcmread(BytesIO(raw))
    except struct.error:  # of a length that is half there
        raise UnusableImage("ends in its header", remedy=_CUT) from None
    _check_content(dataset)
    kind = str(dataset.PhotometricInterpretation)
    if kind not in _GREY | _COLOUR | {_PALETTE}:
        raise UnusableImage(
            f"has photometric interpretation {kind!r}, which is not known",
            remedy=f"export it as one of {', '.join(sorted(_GREY | _COLOUR))}",
        )
    check_sides(int(dataset.Rows), int(dataset.Columns), image)
    _check_syntax(dataset)
    stored = pixel_array(dataset)  # YBR_FULL becomes RGB on the way
    if kind in _GREY:
        shown = _shown(stored.astype(np.float64), dataset)
        shown = 255 - shown if kind == "MONOCHROME1" else shown
        return shown.astype(np.float32)[..., None]
    if kind == _PALETTE:
        colours = apply_color_lut(stored, dataset)
        return colours[..., :3].astype(np.float32) * np.float32(255 / np.iinfo(colours.dtype).max)
    return stored.astype(np.float32) * np.float32(255 / (2 ** int(dataset.BitsStored) - 1))


def _check_content(dataset: Dataset) -> None:
    if "PixelData" not in dataset:
        what = dataset.get("SOPClassUID")
        name = "" if what is None else str(what.name)
        named = f" (it is a {name})" if name else ""
        if not _FLOAT_PIXELS & set(dataset.dir()) and (not name or "Image Storage" in name):
            raise UnusableImage(f"is a DICOM file without its pixels{named}", remedy=_CUT)
        raise UnusableImage(
            f"is a DICOM file without pixels of whole numbers{named}",
            remedy="name an image, not a report or a float map; or it is cut off: export it again",
        )
    absent = [name for name in _NEEDED if dataset.get(name) is None]
    if absent:
        raise UnusableImage(
            f"is a DICOM file whose header lacks {absent[0]}", remedy="export it again, whole"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise UnusableImage(
            f"has {frames} frames, and a record is one image",
            remedy="export the frame to be used as a file of its own",
        )


def _check_syntax(dataset: Dataset) -> None:
    """Refuse a compression that nothing installed can decode, by its name."""
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise UnusableImage(
            f"is compressed as {syntax.name!r}, which cannot be decoded here",
            remedy="export it uncompressed (Explicit VR Little Endian), "
            "or install a pydicom plugin for that syntax",
        )


def _shown(stored: Values, dataset: Dataset) -> Values:
    """Return what a viewer would show of grey values, 0 to 255."""
    bits = int(dataset.BitsStored)
    least = -(2.0 ** (bits - 1)) if dataset.PixelRepresentation else 0.0
    limits = np.array([least, least + 2.0**bits - 1])
    if dataset.get("ModalityLUTSequence"):
        values, most = _look_up(stored, dataset.ModalityLUTSequence[0], dataset)
        limits = np.array([0.0, most])
    else:
        slope = _number(dataset, "RescaleSlope", 1)
        intercept = _number(dataset, "RescaleIntercept", 0)
        if slope == 0:
            raise UnusableImage("has a rescale slope of 0", remedy="export it again")
        values, limits = stored * slope + intercept, np.sort(limits * slope + intercept)
    if dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None:
        return 255 * _windowed(values, dataset)
    if dataset.get("VOILUTSequence"):
        values, most = _look_up(values, dataset.VOILUTSequence[0], dataset)
        limits = np.array([0.0, most])
    low, high = limits
    return np.asarray(255 * np.clip((values - low) / (high - low), 0, 1), dtype=np.float64)


def _windowed(values: Values, dataset: Dataset) -> Values:
    """Return the first window's view, 0 to 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    center, width = (float(_first(dataset[k].value)) for k in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if not (width >= 1 if function == "LINEAR" else width > 0):
        raise UnusableImage(
            f"has a window {width:g} wide", remedy="export it with a window of positive width"
        )
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        raise UnusableImage(
            f"has a window of the unknown kind {function!r}",
            remedy="export it with a linear window",
        )
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)))
    if function == "LINEAR":  # the window's ends are the centres of its first and last value
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.where(values > center, 1.0, 0.0)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _look_up(values: Values, item: Any, dataset: Dataset) -> tuple[Values, float]:
    """Return values through a table of the header, and the most that its entries can say.

    pydicom's own function keeps the index in the entries' type, and wraps where these are bytes.
    """
    entries, first, bits = (int(n) for n in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        data = np.frombuffer(data, dtype=f"{order}u2")
    table = np.asarray(data, dtype=np.float64)[: entries or 2**16]
    index = np.clip(values - first, 0, len(table) - 1).astype(np.intp)
    return table[index], 2.0**bits - 1


def _number(dataset: Dataset, name: str, default: float) -> float:
    value = dataset.get(name)
    return default if value is None else float(value)


def _first(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else value[0]
