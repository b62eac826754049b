"""What stands beside a body's features, and cases seen in several places."""

import pytest
import torch

from common.errors import StudyError
from common.models import made
from common.study import ModelSpec
from common.transfer.cases import Cases
from simulations.fewshot.describing import coarse, levels, over_shifts, shifts, side_by_side


def pictures(count=3, size=32, seed=0):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_descriptions_side_by_side_weigh_the_same():
    """Whatever the scale or width of one: its rows have mean square length 1 in what is learnt."""
    seen = []

    def learn(cases, x, seed):
        seen.append(cases.x)
        return x[:, :2]

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(8, n, generator=generator).double() for n in (3, 50))
    cases = Cases(torch.cat([1000 * a, 0.01 * b], 1), torch.arange(8) % 2, 2)
    side_by_side(learn, [3, 50])(cases, cases.x, 0)
    for block in seen[0].split([3, 50], 1):
        assert block.square().sum(1).mean().item() == pytest.approx(1.0, abs=1e-6)
        assert block.mean(0).abs().max() < 1e-12


def test_queries_are_scaled_by_the_labelled_cases_alone():
    """Fault it is for: queries that tell each other where their mean lies."""
    seen = []

    def learn(cases, x, seed):
        seen.append(x)
        return x[:, :2]

    cases = Cases(torch.randn(6, 4).double(), torch.arange(6) % 2, 2)
    queries = torch.randn(5, 4).double()
    side_by_side(learn, [4])(cases, queries, 0)
    side_by_side(learn, [4])(cases, queries[:1], 0)
    assert torch.allclose(seen[0][:1], seen[1])


def test_five_places_are_the_picture_and_four_diagonal_moves():
    x = torch.zeros(1, 1, 20, 20)
    x[0, 0, 10, 7] = 1.0
    found = [tuple(torch.nonzero(one[0, 0])[0].tolist()) for one in shifts(x)]
    assert found == [(10, 7), (11, 8), (11, 6), (9, 8), (9, 6)]
    assert all(one.shape == x.shape for one in shifts(x))


def test_a_query_has_the_geometric_mean_of_its_places():
    """Probabilities (.9, .1) and (.5, .5): roots of .45 and .05, so 3 to 1."""

    def learn(cases, x, seed):
        assert cases.y.tolist() == [0, 0, 1, 1]
        return torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64)

    cases = Cases(torch.zeros(2, 2, 3), torch.tensor([0, 1]), 2)
    found = over_shifts(learn)(cases, torch.zeros(1, 2, 3), 0)
    assert found[0].tolist() == pytest.approx([0.75, 0.25])


def test_coarse_pictures_do_not_see_brightness_or_contrast():
    x = pictures()
    assert coarse(x).shape == (3, 256)
    assert torch.allclose(coarse(x), coarse(0.4 * x + 0.3), atol=1e-3)
    assert not torch.allclose(coarse(x)[0], coarse(x)[1], atol=0.1)


def test_levels_are_the_lower_poolings():
    """conv4 of width 2 pools 32 pixels to 16, 8, 4, 2: the middle two, at most 4 a side."""
    model = made(ModelSpec(name="conv4", width=2), (1, 32, 32), 3, seed=0)
    x = pictures()
    found = levels(model, x, chunk=2)
    assert found.shape == (3, 2 * 16 + 2 * 16)
    with torch.no_grad():
        assert torch.allclose(found[:, 32:], model.body[:12](x).flatten(1).double())
    with pytest.raises(StudyError, match="no lower layers"):
        levels(made(ModelSpec(name="mlp"), (1, 32, 32), 3, seed=0), x)
