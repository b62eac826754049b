"""Which body transfers best: figures against independent formulas, the ranking against truth."""

import math

import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from common.privacy.moments import Moments
from common.transfer.cases import Cases
from common.transfer.choice import Source, evidence, frechet, ranking


def space(*, dim=6, shots=10, apart=2.0, seed=0, ways=3):
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(ways).repeat_interleave(shots)
    x = torch.randn(len(y), dim, generator=rng, dtype=torch.float64)
    x[torch.arange(len(y)), y] += apart
    return Cases(x, y, ways)


@pytest.mark.parametrize(("dim", "apart"), [(6, 2.0), (50, 1.0), (6, 6.0)])
def test_evidence_is_the_largest_marginal_likelihood(dim, apart):
    """log N(y; 0, I/beta + F F^T/alpha) by scipy, at the best alpha and beta that it finds.

    y and F as they are in the 29 directions beside the constant one.
    """
    cases = space(dim=dim, apart=apart)
    basis = torch.linalg.qr(torch.cat([torch.ones(30, 1), torch.eye(30)[:, 1:]], 1).double())[0]
    basis = basis[:, 1:].T
    f = (basis @ cases.x).numpy()
    total = 0.0
    for c in range(3):
        y = (basis @ (cases.y == c).double()).numpy()

        def lost(logs, y=y):
            alpha, beta = (math.exp(v) for v in logs)
            cov = torch.eye(len(y)).numpy() / beta + f @ f.T / alpha
            return -multivariate_normal(cov=cov).logpdf(y)

        starts = [(0.0, 0.0), (3.0, 3.0), (5.0, 1.0)]
        total -= min(minimize(lost, s, method="Nelder-Mead").fun for s in starts)
    assert evidence(cases) == pytest.approx(total / 3 / 29, abs=1e-4)


def test_many_columns_of_noise_are_no_evidence():
    """Fault it is for: the fit of a classifier, which of 400 columns and 30 cases is perfect."""
    signal, noise = space(dim=6), space(dim=400, apart=0.0)
    assert evidence(signal) > evidence(noise) + 0.1
    both = Cases(torch.cat([signal.x, noise.x], 1), signal.y, 3)
    assert evidence(signal) > evidence(both)


def test_evidence_does_not_mind_the_scale_of_a_body():
    cases = space()
    assert evidence(Cases(1000 * cases.x, cases.y, 3)) == pytest.approx(evidence(cases), abs=1e-3)


def test_frechet_is_the_trace_formula_of_another_library():
    rng = torch.Generator().manual_seed(0)
    moments = []
    for _ in range(2):
        a = torch.randn(5, 5, generator=rng, dtype=torch.float64)
        moments.append(Moments(torch.randn(5, generator=rng, dtype=torch.float64), a @ a.T))
    one, other = moments
    cross = sqrtm((one.covariance @ other.covariance).numpy()).real
    expected = (one.mean - other.mean).square().sum() + (one.covariance + other.covariance).trace()
    assert frechet(one, other) == pytest.approx(float(expected) - 2 * cross.trace(), rel=1e-6)
    assert frechet(one, one) == pytest.approx(0, abs=1e-6)


def test_bodies_that_part_the_new_classes_come_first_and_near_ones_next():
    near, far = (Moments(torch.full((6,), m), torch.eye(6)) for m in (0.5, 50.0))
    good = space()
    rows = ranking(
        {
            "useless": Source(space(apart=0.0), near),
            "good but far": Source(good, far),
            "good": Source(good, near),
            "good, unknown": Source(good),
        }
    )
    assert [r.name for r in rows] == ["good", "good but far", "good, unknown", "useless"]
    assert rows[0].distance < rows[1].distance
    assert rows[2].distance is None


def test_a_body_that_says_the_same_of_everybody_has_a_finite_place():
    flat = Cases(torch.ones(6, 4), torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    assert math.isfinite(evidence(flat))
