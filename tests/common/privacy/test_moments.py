"""Released moments: what they are without noise, what one patient can move, what they cost."""

import math

import dp_accounting
import numpy as np
import pytest
import torch
from scipy.stats import norm

from common.cohort.parts import Part
from common.privacy.accounting import epsilon
from common.privacy.moments import (
    lifted,
    moment_sums,
    moments_of,
    sensitivity,
)
from common.privacy.noise import SeededSource
from common.transfer.release import released_moments

RADIUS = 2.0


def patients(n=30, *, dim=4, seed=0, records=1):
    rng = torch.Generator().manual_seed(seed)
    who = torch.arange(n).repeat_interleave(records)
    x = torch.randn(len(who), dim, generator=rng, dtype=torch.float64)
    x *= (RADIUS / x.norm(dim=1, keepdim=True)).clamp(max=1)
    return Part(x, torch.randint(3, (len(who),), generator=rng), who, n)


def flat(sums):
    return torch.cat([v.reshape(-1) for v in sums.values()])


def test_without_noise_they_are_the_samples_own():
    part = patients()
    found = moments_of(moment_sums(part.x, part, radius=RADIUS), radius=RADIUS, patients=30)
    torch.testing.assert_close(found.mean, part.x.mean(0))
    expected = torch.from_numpy(np.cov(part.x.numpy().T, bias=True))
    torch.testing.assert_close(found.covariance, expected)
    by_class = moments_of(moment_sums(part.x, part, radius=RADIUS, classes=3), radius=RADIUS)
    torch.testing.assert_close(by_class.mean, found.mean)
    torch.testing.assert_close(by_class.covariance, expected)
    for c in range(3):
        torch.testing.assert_close(by_class.prototypes[c], part.x[part.y == c].mean(0))


def test_a_patient_of_many_records_counts_once():
    one, many = patients(6), patients(6)
    many = many.select(torch.arange(6).repeat_interleave(100))
    for classes in (None, 3):
        torch.testing.assert_close(
            *(moment_sums(p.x, p, radius=RADIUS, classes=classes) for p in (one, many))
        )


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize("records", [1, 5])
def test_one_patient_moves_the_whole_vector_by_at_most_its_sensitivity(classes, second, records):
    """Faults it is for: a sum by records; entries beside the diagonal counted once or twice."""
    more = patients(8, records=records)
    less = more.select(torch.arange(records, len(more.y)))
    how = {"radius": RADIUS, "second": second, "classes": classes}
    moved = flat(moment_sums(more.x, more, **how)) - flat(moment_sums(less.x, less, **how))
    bound = sensitivity(RADIUS, second=second, classes=classes is not None)
    assert moved.norm() <= bound * (1 + 1e-9)
    at_edge = Part(torch.tensor([[RADIUS, 0.0]]), torch.tensor([0]), torch.tensor([0]), 1)
    assert flat(moment_sums(at_edge.x, at_edge, **how)).norm().item() == pytest.approx(bound)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_record_that_is_not_finite_counts_as_none(value):
    part = patients(5)
    x = part.x.clone()
    x[2, 1] = value
    without = part.select(torch.tensor([0, 1, 3, 4]))
    broken, rest = (
        moment_sums(x, part, radius=RADIUS),
        moment_sums(without.x, without, radius=RADIUS),
    )
    torch.testing.assert_close(broken, rest)


def test_nobody_at_all_has_moments_of_zero():
    nobody = patients(3).select(torch.empty(0, dtype=torch.int64))
    found, _ = released_moments(nobody.x, nobody, SeededSource(0), radius=1.0, sigma=0, classes=2)
    assert found.covariance.abs().max() == 0
    assert found.prototypes.abs().max() == 0


def test_noise_is_sigma_times_the_sensitivity_on_every_entry():
    # 2 classes x 80 + 2 + 80 * 81 / 2 = 3402 draws: the bound fails with probability 1e-6.
    nobody = Part(torch.zeros(0, 80), torch.zeros(0).long(), torch.zeros(0).long(), 0)
    source, sigma = SeededSource(1), 3.0
    found, event = released_moments(nobody.x, nobody, source, radius=RADIUS, sigma=sigma, classes=2)
    assert event.sigma == sigma
    drawn = SeededSource(1).normal(160)
    # Nobody is there, so a class's mean is its noise, over one patient or the noisy count above.
    counts = 1.5 * RADIUS * sigma * SeededSource(1).normal(162)[160:] / (RADIUS / 2)
    expected = 1.5 * RADIUS * sigma * drawn.reshape(2, 80) / counts.clip(min=1)[:, None]
    np.testing.assert_allclose(found.prototypes.numpy(), expected, rtol=1e-5)
    assert abs(expected.std() * counts.clip(min=1).mean()) > 0


def test_price_equals_the_gaussian_mechanisms_own_formula():
    """delta(eps) = Phi(1/(2 s) - eps s) - e^eps Phi(-1/(2 s) - eps s) (Balle and Wang 2018)."""
    part = patients()
    _, event = released_moments(part.x, part, SeededSource(0), radius=1.0, sigma=2.0, classes=3)
    found = epsilon([event], delta=1e-4)
    s = 2.0
    delta = norm.cdf(1 / (2 * s) - found * s) - math.exp(found) * norm.cdf(-1 / (2 * s) - found * s)
    assert delta == pytest.approx(1e-4, rel=2e-2)
    assert isinstance(event.to_dp_event(), dp_accounting.SelfComposedDpEvent)
    _, free = released_moments(part.x, part, SeededSource(0), radius=1.0, sigma=0.0, classes=3)
    assert epsilon([free], delta=1e-4) == math.inf


def test_lifting_leaves_a_covariance_alone_and_mends_a_noisy_one():
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(5, 5, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(lifted(a @ a.T), a @ a.T)
    assert torch.linalg.eigvalsh(lifted(a + a.T)).min() > -1e-12
