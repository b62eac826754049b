"""Who takes part in a step, and with which records.

Seeds are fixed; each bound would fail a sound sampler with a probability of 1e-7 or less.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from common.cohort.parts import Part
from common.privacy.noise import SecureSource, SeededSource
from common.privacy.sampling import sample_patients

RARE = 1e-7


def part_with(counts, *, shuffled=False):
    """Patients with that many records each; a record's input is (patient, its number there)."""
    counts = torch.as_tensor(counts)
    owners = torch.repeat_interleave(torch.arange(len(counts)), counts)
    numbers = torch.cat([torch.arange(n) for n in counts])
    x = torch.stack([owners, numbers], dim=1).float()
    order = torch.arange(len(owners))
    if shuffled:
        order = torch.randperm(len(owners), generator=torch.Generator().manual_seed(0))
    return Part(x[order], owners[order] % 2, owners[order], len(counts))


def two_sided(statistic, distribution):
    return 2 * min(distribution.cdf(statistic), distribution.sf(statistic))


@pytest.mark.parametrize("source", [SeededSource(1), SecureSource()], ids=["seeded", "secure"])
def test_each_patient_takes_part_with_probability_q_independently(source):
    """Faults it is for: another rate than is priced, and batches of a fixed size."""
    part, q, draws = part_with([1] * 100), 0.3, 400
    seen = np.zeros((draws, 100), dtype=bool)
    for row in seen:
        batch = sample_patients(part, source, rate=q, max_records=1)
        row[batch.x[:, 0].int()] = True
    cell = draws * 100
    assert stats.binomtest(int(seen.sum()), cell, q).pvalue > RARE
    # Column sums are Binomial(400, q), row sums Binomial(100, q): chi-square of their dispersion.
    for sums, n in [(seen.sum(0), draws), (seen.sum(1), 100)]:
        dispersion = ((sums - n * q) ** 2 / (n * q * (1 - q))).sum()
        assert two_sided(dispersion, stats.chi2(len(sums))) > RARE
    assert abs(np.corrcoef(seen[:-1].ravel(), seen[1:].ravel())[0, 1]) * np.sqrt(cell) < 5.5


def test_a_patient_with_many_records_is_no_likelier_to_take_part():
    part, source = part_with([50, 1]), SeededSource(2)
    seen = np.zeros(2)
    for _ in range(2000):
        batch = sample_patients(part, source, rate=0.2, max_records=2)
        for patient in batch.x[:, 0].unique().int():
            seen[patient] += 1
    assert all(stats.binomtest(int(n), 2000, 0.2).pvalue > RARE for n in seen)


def test_rate_one_takes_everybody():
    part = part_with([2, 1, 3])
    batch = sample_patients(part, SeededSource(0), rate=1.0, max_records=9)
    assert torch.equal(batch.x, part.x)
    assert torch.equal(batch.patient, part.patient)
    assert batch.patients == 3


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_at_most_k_records_of_a_patient_and_none_twice(k, shuffled):
    counts = torch.tensor([1, 2, 3, 4, 5, 6, 7, 1])
    part = part_with(counts, shuffled=shuffled)
    batch = sample_patients(part, SeededSource(3), rate=1.0, max_records=k)
    assert torch.equal(torch.bincount(batch.patient), counts.clamp(max=k))
    assert len(batch.x.unique(dim=0)) == len(batch.x)
    owners = batch.x[:, 0].long()
    assert torch.equal(batch.y, owners % 2)  # labels and patients stay with their records
    assert len(torch.stack([owners, batch.patient], dim=1).unique(dim=0)) == len(counts)


def test_records_of_a_patient_are_drawn_uniformly_and_anew():
    """Fault it is for: always the first k records."""
    n, k, patients = 6, 2, 5000
    part, source = part_with([n] * patients), SeededSource(4)
    first, again = (sample_patients(part, source, rate=1.0, max_records=k) for _ in range(2))
    assert not torch.equal(first.x, again.x)
    counts = torch.bincount(first.x[:, 1].long(), minlength=n).double()
    # k of n without replacement: covariance p (1 - p) n/(n-1) (I - 1/n) a patient, p = k/n, hence
    # sum (count - m p)^2 / (m p (1 - p) n/(n-1)) is chi-square with n - 1 degrees of freedom.
    p = k / n
    statistic = ((counts - patients * p) ** 2).sum() / (patients * p * (1 - p) * n / (n - 1))
    assert two_sided(statistic.item(), stats.chi2(n - 1)) > RARE


@pytest.mark.parametrize("k", [1, 5])
def test_nobody_sampled_is_an_empty_batch(k):
    part = part_with([2, 2])
    batch = sample_patients(part, SeededSource(0), rate=1e-12, max_records=k)
    assert batch.patients == 0
    assert batch.x.shape == (0, 2)
    again = sample_patients(batch, SecureSource(), rate=0.5, max_records=k)  # nobody to draw from
    assert again.patients == 0
