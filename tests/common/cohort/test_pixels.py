"""One image on its own: size, colour, and the fixed maps."""

import numpy as np
import pytest
from skimage.feature import hog

from common.cohort.pixels import UnusableImage, check_sides, encode_image
from common.cohort.schema import Image

RNG = np.random.default_rng(0)


def rules(**values):
    return Image.model_validate({"size": 28, **values})


def grey(*shape):
    return RNG.integers(0, 256, (*shape, 1)).astype(np.float32)


def test_an_image_of_the_studys_size_is_only_scaled():
    pixels = grey(28, 28)
    assert encode_image(pixels, rules())[0] == pytest.approx(pixels[..., 0] / 127.5 - 1)


def test_a_whole_reduction_of_a_smooth_image_is_its_block_mean():
    # A ramp's triangle-weighted mean is the block's own mean, but for the edges.
    ramp = np.tile(np.arange(56, dtype=np.float32) * 4, (56, 1))[..., None]
    found = (encode_image(ramp, rules())[0] + 1) * 127.5
    means = ramp[..., 0].reshape(28, 2, 28, 2).mean(axis=(1, 3))
    assert found[:, 1:-1] == pytest.approx(means[:, 1:-1], abs=1e-3)


def test_a_reduction_averages_what_it_drops():
    # Broken once: taking each second pixel turns a fine chequer into plain black or white.
    chequer = (np.indices((56, 56)).sum(axis=0) % 2 * 255.0).astype(np.float32)[..., None]
    inner = encode_image(chequer, rules())[0, 1:-1, 1:-1]
    assert inner == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(("shape", "box"), [((56, 28), (28, 14)), ((30, 90), (9, 28))])
def test_an_oblong_keeps_its_aspect_and_is_padded_with_black(shape, box):
    found = encode_image(np.full((*shape, 1), 255, dtype=np.float32), rules())[0]
    white = found > 0
    assert (white.any(axis=1).sum(), white.any(axis=0).sum()) == box
    assert set(np.unique(found)) == {-1.0, 1.0}
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    for kept in (rows, columns):  # half of the padding on each side
        assert abs(kept[0] - (27 - kept[-1])) <= 1


@pytest.mark.parametrize("shape", [(28, 28), (31, 77), (300, 200)])
def test_resizing_never_leaves_the_range(shape):
    # Broken once: a cubic filter overshoots at an edge.
    edges = (RNG.random((*shape, 3)) < 0.5).astype(np.float32) * 255
    found = encode_image(edges, rules(channels=3))
    assert found.shape == (3, 28, 28)
    assert np.abs(found).max() <= 1


def test_sixteen_bits_survive_resizing():
    # A step of 1 in 65,535 is 1/257 of a grey value: 8 bits would lose it.
    low = encode_image(np.full((40, 40, 1), 100, dtype=np.float32), rules())
    high = encode_image(np.full((40, 40, 1), 100 + 1 / 257, dtype=np.float32), rules())
    assert (high - low) * 127.5 * 257 == pytest.approx(1, abs=0.02)


def test_grey_and_colour_become_the_studys_channels():
    colour = np.zeros((28, 28, 3), dtype=np.float32)
    colour[..., 0], colour[..., 2] = 200, 100
    luma = 0.299 * 200 + 0.114 * 100
    assert encode_image(colour, rules())[0] == pytest.approx(luma / 127.5 - 1)
    pixels = grey(28, 28)
    three = encode_image(pixels, rules(channels=3))
    assert all(np.array_equal(three[c], encode_image(pixels, rules())[0]) for c in range(3))


@pytest.mark.parametrize("sides", [(27, 28), (28, 27), (8193, 100), (100, 8193), (1, 1)])
def test_sides_out_of_bounds_are_refused(sides):
    with pytest.raises(
        UnusableImage, match=f"is {sides[0]}x{sides[1]} pixels; sides of 28 to 8192"
    ):
        check_sides(*sides, rules())


def test_the_studys_own_size_is_in_bounds_whatever_they_are():
    check_sides(8, 8, rules(size=8))
    check_sides(28, 8192, rules())


# Fixed maps.

HOG = {"kind": "hog", "orientations": 8, "pixels_per_cell": 7, "cells_per_block": 1}
POOL = {"kind": "pixels", "size": 7}


def test_maps_stand_one_after_the_other_in_place_of_the_pixels():
    both = rules(maps=[HOG, POOL])
    assert both.input_shape == (8 * 4 * 4 + 49,)
    pixels = grey(28, 28)
    found = encode_image(pixels, both)
    assert found.dtype == np.float32
    assert np.array_equal(found[:128], encode_image(pixels, rules(maps=[HOG])))
    assert np.array_equal(found[128:], encode_image(pixels, rules(maps=[POOL])))


def test_pooled_pixels_are_block_means():
    pixels = grey(28, 28)
    means = pixels[..., 0].reshape(7, 4, 7, 4).mean(axis=(1, 3)) / 127.5 - 1
    assert encode_image(pixels, rules(maps=[POOL])) == pytest.approx(means.ravel(), abs=1e-6)


def test_standardised_pixels_know_neither_brightness_nor_contrast():
    own = {**POOL, "standardise": True}
    pixels = grey(28, 28)
    found = encode_image(pixels, rules(maps=[own]))
    assert (found.mean(), found.std()) == pytest.approx((0, 1), abs=1e-5)
    assert found == pytest.approx(encode_image(0.5 * pixels + 60, rules(maps=[own])), abs=1e-4)
    order = np.argsort(encode_image(pixels, rules(maps=[POOL])))
    assert np.array_equal(np.argsort(found), order)


def test_a_flat_image_standardised_is_zeros():
    own = {**POOL, "standardise": True}
    flat = np.full((28, 28, 1), 90, dtype=np.float32)
    flat[0, 0] += 1e-3
    assert not encode_image(flat, rules(maps=[own])).any()


def test_pooled_colours_go_channel_by_channel():
    colour = np.zeros((28, 28, 3), dtype=np.float32)
    colour[..., 1] = 255
    found = encode_image(colour, rules(channels=3, maps=[POOL]))
    assert found == pytest.approx([-1.0] * 49 + [1.0] * 49 + [-1.0] * 49)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_gradient_histograms_are_the_librarys(blocks):
    pixels = grey(28, 28)
    found = encode_image(pixels, rules(maps=[{**HOG, "cells_per_block": blocks}]))
    expected = hog(
        pixels[..., 0],
        orientations=8,
        pixels_per_cell=(7, 7),
        cells_per_block=(blocks, blocks),
    )
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0 <= found.min() <= found.max() <= 1


def test_a_flat_image_has_no_gradients():
    flat = np.full((28, 28, 1), 90, dtype=np.float32)
    assert not encode_image(flat, rules(maps=[HOG])).any()


def test_brightness_and_contrast_leave_gradient_histograms_as_they_are():
    pixels = grey(28, 28) / 2
    one = encode_image(pixels, rules(maps=[HOG]))
    other = encode_image(0.5 * pixels + 60, rules(maps=[HOG]))
    assert one == pytest.approx(other, abs=1e-4)


def test_a_map_is_shifted_and_scaled_by_its_constants():
    pixels = grey(28, 28)
    plain = encode_image(pixels, rules(maps=[HOG, POOL]))
    maps = [{**HOG, "center": 0.25, "scale": 0.5}, {**POOL, "scale": 4.0}]
    moved = encode_image(pixels, rules(maps=maps))
    assert moved[:128] == pytest.approx((plain[:128] - 0.25) / 0.5, abs=1e-6)
    assert moved[128:] == pytest.approx(plain[128:] / 4, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 29, 64])
def test_the_declared_width_is_the_width(size, channels):
    # Cells that do not fit whole are dropped: 29 pixels hold 4 cells of 7.
    for fixed in (
        HOG,
        {**HOG, "cells_per_block": 2, "orientations": 9},
        {"kind": "pixels", "size": 1},
    ):
        image = rules(size=size, channels=channels, maps=[fixed])
        found = encode_image(np.repeat(grey(size, size), channels, axis=2), image)
        assert found.shape == image.input_shape
