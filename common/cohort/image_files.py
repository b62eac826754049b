"""One image file, PNG, JPEG or DICOM, as numbers from 0 to 255.

The kind is told by the first bytes, not by the name. An 8-bit value stays as it is and a 16-bit one
is divided by 257, so that the most the format can say is 255 whatever an image holds. Transparency
is dropped; a photograph is turned upright as its EXIF orientation says.
"""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from common.cohort.dicom import read_dicom
from common.cohort.pixels import Floats, UnusableImage, check_sides
from common.cohort.schema import Image

_PNG, _JPEG, _DICOM = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"DICM"
_SIXTEEN_BITS = {"I", "I;16", "I;16B", "I;16L"}
HEADER = 132  # bytes by which the kind is told


def is_image_file(raw: bytes) -> bool:
    """Tell whether a file that begins so is a PNG, JPEG or DICOM file.

    >>> is_image_file(_PNG), is_image_file(b"patient,number")
    (True, False)
    """
    return raw.startswith((_PNG, _JPEG)) or raw[128:HEADER] == _DICOM


def read_image_file(raw: bytes, image: Image) -> Floats:
    """Return a file's pixels, (height, width, 1 or 3), 0 to 255.

    Args:
        raw: The file's bytes.
        image: Its size is allowed whatever the bounds are.

    Raises:
        UnusableImage: the file is of another kind, damaged, encrypted, or not one plain image.
    """
    if raw.startswith((_PNG, _JPEG)):
        decode = _read_picture
    elif raw[128:HEADER] == _DICOM:
        decode = read_dicom
    else:
        raise UnusableImage(
            "does not begin as a PNG, JPEG or DICOM file does",
            remedy="export it as one of these; decrypt it first if it is encrypted",
        )
    try:
        with warnings.catch_warnings():  # on odd tags; what cannot be decoded raises
            warnings.simplefilter("ignore")
            pixels = decode(raw, image)
    except UnusableImage:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        # Pillow names the buffer that it was given in place of a reason.
        is_header = isinstance(error, UnidentifiedImageError)
        reason = "its header is damaged" if is_header else error or type(error).__name__
        raise UnusableImage(
            f"cannot be decoded: {reason}",
            remedy="export it again: it is damaged or cut off",
        ) from error
    if not np.isfinite(pixels).all():
        raise UnusableImage(
            "has pixels that are not finite", remedy="mend its rescale or window, or leave it out"
        )
    return pixels


def _read_picture(raw: bytes, image: Image) -> Floats:
    with Pillow.open(BytesIO(raw), formats=["PNG", "JPEG"]) as picture:
        check_sides(picture.height, picture.width, image)
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            raise UnusableImage(
                f"has {frames} frames, and a record is one image",
                remedy="export the frame to be used as a file of its own",
            )
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    if upright.mode in _SIXTEEN_BITS:
        return np.asarray(upright).astype(np.float32)[..., None] / np.float32(257)
    is_grey = upright.mode in {"1", "L", "LA"}
    values = np.asarray(upright.convert("L" if is_grey else "RGB"), dtype=np.float32)
    return values[..., None] if is_grey else values
