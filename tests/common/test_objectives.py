"""What outputs are held to, against worked numbers and against the library."""

import math

import pytest
import torch
from torch.func import grad, vmap

from common.metric_losses import contrastive_pairs, semi_hard_triplets
from common.metric_spec import MetricSpec
from common.objectives import ONE_AGAINST_REST, PAIRS, contrastive, triplet


@pytest.mark.parametrize(
    ("form", "y", "expected"),
    [("squared", 0, 0.125), ("squared", 1, 0.125 + 0.5), ("distance", 0, 0.25),
     ("distance", 1, 0.25 + 0.5)],
)  # fmt: skip
def test_contrastive_of_worked_numbers(form, y, expected):
    # Distances 0 to class 0 and .5 to class 1, margin 1: of class 0 the pair with class 1 alone
    # counts, 1/2 (1 - .5)^2; of class 1 the likes are .5 apart and the unlikes 0.
    outputs = torch.tensor([[-0.0, -0.5]])
    loss = contrastive(margin=1.0, form=form).losses(outputs, torch.tensor([y]))
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("distances", "y", "expected"),
    [
        ([0.2, 0.5, 0.9], 0, 0.7),  # semi-hard: .5 is further than .2 and within the margin
        ([0.2, 1.5, 0.1], 0, 0.0),  # the nearest behind is beyond the margin
        ([0.8, 0.3, 0.1], 0, 1.5),  # none behind: the furthest of those ahead, .8 - .3 + 1
    ],
)
def test_triplet_of_worked_numbers(distances, y, expected):
    loss = triplet(margin=1.0).losses(-torch.tensor([distances]), torch.tensor([y]))
    assert loss.item() == pytest.approx(expected)


def test_binary_problems_of_worked_numbers():
    outputs, y = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([1])
    rest = ONE_AGAINST_REST.losses(outputs, y)
    assert rest.item() == pytest.approx(math.log(2) + math.log(4 / 3))
    assert PAIRS.losses(outputs, y).item() == pytest.approx(math.log(4 / 3))
    assert ONE_AGAINST_REST.probabilities(outputs).tolist()[0] == pytest.approx([0.4, 0.6])


@pytest.mark.parametrize(
    "objective",
    [contrastive(margin=1.0, form="squared"), triplet(margin=1.0), ONE_AGAINST_REST, PAIRS],
)
def test_a_records_loss_does_not_know_the_others(objective):
    outputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    together = objective.losses(outputs, y)

    def one(row, its):
        return objective.losses(row[None], its[None])[0]

    assert torch.allclose(together, vmap(one)(outputs, y))
    assert vmap(grad(one))(outputs, y).isfinite().all()


@pytest.mark.parametrize("seed", range(12))
def test_pairs_and_triplets_of_an_episode_are_what_their_papers_say(seed):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(4 + seed % 5, 2, generator=rng, dtype=torch.float64)
    y = torch.arange(len(z)) % 2
    far = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    likes = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j and y[i] == y[j]]
    unlikes = [(i, j) for i in range(len(z)) for j in range(len(z)) if y[i] != y[j]]
    metric = MetricSpec(loss="contrastive", margin=1.0)
    expected = (
        torch.stack([far[p] ** 2 for p in likes]).mean()
        + torch.stack([(1 - far[p]).clamp(min=0) ** 2 for p in unlikes]).mean()
    ) / 2
    assert contrastive_pairs(metric)(z, y).item() == pytest.approx(expected.item(), abs=1e-5)
    gaps = [
        far[a, p] - far[a, n]
        for a, p in likes
        for b, n in unlikes
        if a == b and far[a, p] < far[a, n] <= far[a, p] + 1.0
    ]
    hard = torch.stack(gaps).add(1.0).clamp(min=0).mean().item() if gaps else 0.0
    found = semi_hard_triplets(MetricSpec(loss="triplet", margin=1.0))(z, y)
    assert found.item() == pytest.approx(hard, abs=1e-5)
