"""Maps between feature spaces: moments match, closed forms are minima, a shifted target gains."""

import pytest
import torch
from torch.nn import functional as F

from common.cohort.parts import Part
from common.privacy.moments import Moments
from common.privacy.noise import SeededSource
from common.transfer.cases import Cases
from common.transfer.mapping import (
    by_moments,
    mapped,
    nearest_prototype,
    own_moments,
    to_judge,
    to_prototypes,
)
from common.transfer.release import released_moments

AIMS = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0]], dtype=torch.float64)


def draw(n, *, seed, mix=None, shift=0.0):
    """Three classes around AIMS, then mixed and moved as another scanner would."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = AIMS[y] + 0.4 * torch.randn(n, 3, generator=rng, dtype=torch.float64)
    return (x if mix is None else x @ mix.T) + shift, y


MIX = torch.tensor([[1.0, 0.9, 0], [0, 0.5, 0.4], [0.3, 0, 1.5]], dtype=torch.float64)


def plain(x):
    centred = x - x.mean(0)
    return Moments(x.mean(0), centred.T @ centred / len(x))


def test_mapped_features_have_the_sources_moments():
    """Fault it is for: colouring before whitening, or the roots of the wrong side."""
    target, source = plain(draw(300, seed=0, mix=MIX, shift=3.0)[0]), plain(draw(300, seed=1)[0])
    h = by_moments(target, source, ridge=1e-9)
    torch.testing.assert_close(h.weight @ target.mean + h.shift, source.mean)
    found = h.weight @ target.covariance @ h.weight.T
    torch.testing.assert_close(found, source.covariance, rtol=1e-5, atol=1e-6)


def test_equal_moments_need_no_map():
    one = plain(draw(300, seed=0)[0])
    h = by_moments(one, one)
    torch.testing.assert_close(h.weight, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(h.shift, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_direction_without_spread_is_not_blown_up():
    x = draw(300, seed=0)[0]
    x[:, 2] = 1.0
    h = by_moments(plain(x), plain(draw(300, seed=1)[0]))
    assert torch.isfinite(h.weight).all()
    assert h.weight.abs().max() < 100


def test_the_map_to_prototypes_is_a_minimum_of_its_stated_loss():
    x, y = draw(15, seed=0, mix=MIX, shift=1.0)
    h = to_prototypes(Cases(x, y, 3), AIMS, ridge=0.3)
    spread = (x - x.mean(0)).square().mean()

    def loss(weight, shift):
        missed = (x @ weight.T + shift - AIMS[y]).square().sum(1).mean()
        return missed + 0.3 * spread * (weight - torch.eye(3)).square().sum()

    weight, shift = h.weight.requires_grad_(), h.shift.requires_grad_()
    for slope in torch.autograd.grad(loss(weight, shift), [weight, shift]):
        assert slope.abs().max() < 1e-10


def test_the_map_to_a_linear_judge_is_a_minimum_and_stays_at_the_identity_under_a_strong_pull():
    x, y = draw(15, seed=0, mix=MIX, shift=1.0)

    def judge(z):
        return z @ AIMS.T

    h = to_judge(Cases(x, y, 3), judge, ridge=0.1)
    weight, shift = h.weight.requires_grad_(), h.shift.requires_grad_()
    loss = F.cross_entropy(judge(x @ weight.T + shift), y)
    pull = (weight - torch.eye(3)).square().sum() + shift.square().sum()
    for slope in torch.autograd.grad(loss + 0.05 * pull, [weight, shift]):
        assert slope.abs().max() < 1e-5
    stiff = to_judge(Cases(x, y, 3), judge, ridge=1e6)
    assert (stiff.weight - torch.eye(3)).abs().max() < 1e-4
    assert stiff.shift.abs().max() < 1e-4


def test_a_shifted_target_is_told_apart_once_it_is_mapped():
    """A source of 600 releases moments at sigma 4; a target of another scanner has 5 a class."""
    x, y = draw(600, seed=1)
    part = Part(x, y, torch.arange(600), 600)
    source, _ = released_moments(x, part, SeededSource(0), radius=4.0, sigma=4.0, classes=3)
    judge = nearest_prototype(source.prototypes)
    few = Cases(*draw(15, seed=2, mix=MIX, shift=-3.0), 3)
    queries, truth = draw(300, seed=3, mix=MIX, shift=-3.0)

    def accuracy(probabilities):
        assert probabilities.shape == (300, 3)
        return float((probabilities.argmax(1) == truth).double().mean())

    unmapped = accuracy(judge(queries).softmax(1))
    everything = own_moments(queries)
    ways = {
        "moments": lambda cases: by_moments(everything, source),
        "prototypes": lambda cases: to_prototypes(cases, source.prototypes, ridge=0.1),
        "judge": lambda cases: to_judge(cases, judge, ridge=0.01),
    }
    found = {k: accuracy(mapped(learn, judge)(few, queries, 0)) for k, learn in ways.items()}
    assert unmapped < 0.75
    assert min(found.values()) > 0.9


@pytest.mark.parametrize("cases", [4, 40])
def test_own_covariance_is_never_singular(cases):
    x = torch.randn(cases, 10, generator=torch.Generator().manual_seed(0))
    assert torch.linalg.eigvalsh(own_moments(x).covariance).min() > 1e-3
