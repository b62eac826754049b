"""PNG and JPEG files: modes, depths, and files that are not what they should be."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from common.cohort.image_files import read_image_file
from common.cohort.pixels import UnusableImage
from common.cohort.schema import Image

RULES = Image(size=28)
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 40)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)


def saved(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return file.getvalue()


def read(picture, kind="PNG", **options):
    return read_image_file(saved(picture, kind, **options), RULES)


def test_grey_values_of_eight_bits_stay_as_they_are():
    # Broken once: a stretch to the image's own darkest and brightest pixel.
    dull = GREY // 4 + 20
    found = read(Pillow.fromarray(dull))
    assert found.dtype == np.float32
    assert np.array_equal(found[..., 0], dull)


def test_sixteen_bits_map_to_the_same_range_by_the_format_and_not_by_the_image():
    deep = np.array([[0, 257, 4095, 65535]] * 30).repeat(10, axis=1).astype(np.uint16)
    found = read(Pillow.fromarray(deep))
    assert found[0, ::10, 0] == pytest.approx([0, 1, 4095 / 257, 255])


def test_colour_stays_colour_in_its_order():
    assert np.array_equal(read(Pillow.fromarray(COLOUR)), COLOUR)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("LA", 1), ("P", 3), ("RGBA", 3)])
def test_other_modes_become_grey_or_colour(mode, channels):
    source = Pillow.fromarray(COLOUR).convert("L" if mode in {"1", "LA"} else "RGB").convert(mode)
    expected = np.asarray(source.convert("L" if channels == 1 else "RGB"))
    assert np.array_equal(read(source), expected.reshape(30, 40, channels))


def test_one_bit_is_black_or_white():
    assert set(np.unique(read(Pillow.fromarray(GREY > 99)))) == {0.0, 255.0}


def test_transparency_is_dropped():
    seen = np.dstack([COLOUR, np.zeros((30, 40), np.uint8)])
    assert np.array_equal(read(Pillow.fromarray(seen)), COLOUR)


@pytest.mark.parametrize("values", [GREY, COLOUR], ids=["grey", "colour"])
def test_a_jpeg_is_read_as_the_library_decodes_it(values):
    raw = saved(Pillow.fromarray(values), "JPEG", quality=95)
    decoded = np.asarray(Pillow.open(io.BytesIO(raw))).reshape(30, 40, -1)
    assert np.array_equal(read_image_file(raw, RULES), decoded)


def test_a_photograph_is_turned_upright():
    exif = Pillow.Exif()
    exif[0x0112] = 6  # lies on its side: turn by a quarter clockwise
    found = read(Pillow.fromarray(GREY), exif=exif)
    assert np.array_equal(found[..., 0], np.rot90(GREY, -1))


def test_the_kind_is_told_by_content_and_not_by_name():
    for raw in (b"", b"GIF89a", b"%PDF-1.7", RNG.bytes(5000), b"\x00" * 200):
        with pytest.raises(UnusableImage, match="does not begin as a PNG, JPEG or DICOM") as caught:
            read_image_file(raw, RULES)
        assert "encrypted" in caught.value.remedy


def test_an_animation_is_refused():
    frames = [Pillow.fromarray(GREY), Pillow.fromarray(GREY[::-1].copy())]
    raw = saved(frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(UnusableImage, match="has 2 frames, and a record is one image"):
        read_image_file(raw, RULES)


@pytest.mark.parametrize("shape", [(27, 40), (30, 8193)])
def test_an_image_out_of_bounds_is_refused_before_it_is_decoded(shape):
    raw = saved(Pillow.fromarray(np.zeros(shape, np.uint8)))
    with pytest.raises(UnusableImage, match=rf"is {shape[0]}x{shape[1]} pixels"):
        read_image_file(raw[:-20], RULES)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_off_or_damaged_image_is_read_or_refused_and_nothing_else(kind):
    raw, refused = saved(Pillow.fromarray(GREY), kind), 0
    for end in range(8, len(raw) - 12, 37):
        with pytest.raises(UnusableImage, match="cannot be decoded"):
            read_image_file(raw[:end], RULES)
    for at in range(3, len(raw), 7):
        damaged = bytearray(raw)
        damaged[at] ^= 0xFF
        try:
            found = read_image_file(bytes(damaged), RULES)
        except UnusableImage:
            refused += 1
        else:
            assert 0 <= found.min() <= found.max() <= 255
    assert refused
