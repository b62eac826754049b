"""What pictures are described by: twins of the cohort's own maps, and refusals."""

import numpy as np
import pytest
import torch

from common.cohort.pixels import encode_image
from common.cohort.schema import Hog, Image
from common.errors import DataError
from common.models import made
from common.study import ModelSpec
from common.transfer.spaces import features, hog, pixels, together

torch.set_num_threads(1)


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_are_those_of_the_cohorts_own_map(channels):
    """Fault it is for: gradients of values in [-1, 1], whose rounding moves ties between bins."""
    fixed = Hog(kind="hog", orientations=9, pixels_per_cell=4)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 28, 28, channels)).astype(np.float32)
    plain = Image(size=28, channels=channels)
    x = torch.from_numpy(np.stack([encode_image(p, plain) for p in pictures]))
    mapped = Image(size=28, channels=channels, maps=(fixed,))
    expected = np.stack([encode_image(p, mapped) for p in pictures])
    assert torch.equal(hog(x), torch.from_numpy(expected).double())
    assert hog(x).shape == (3, 7 * 7 * 9)


def test_features_are_what_the_last_layer_is_given():
    model = made(ModelSpec(name="conv4", width=8), (1, 16, 16), 3, seed=1)
    x = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = features(model, x, chunk=2)
    torch.testing.assert_close(found, model.body[:-1](x).detach().double(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.head(found.float()), model(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 16), (16,)])
def test_pictures_of_another_size_or_depth_are_refused(shape):
    model = made(ModelSpec(name="conv4", width=8), (1, 16, 16), 3, seed=1)
    with pytest.raises(DataError, match="the model takes 1x16x16") as caught:
        features(model, torch.zeros(2, *shape))
    assert "x".join(map(str, shape)) in caught.value.message


def test_rows_of_a_table_have_no_gradients():
    with pytest.raises(DataError, match="no pictures"):
        hog(torch.zeros(2, 5))


def test_descriptions_side_by_side_weigh_the_same():
    long, short = torch.ones(2, 100), torch.ones(2, 4)
    both = together(pixels(long), pixels(short))
    assert both.shape == (2, 104)
    assert both[:, :100].square().sum(1).tolist() == pytest.approx([1, 1])
    assert both[:, 100:].square().sum(1).tolist() == pytest.approx([1, 1])
