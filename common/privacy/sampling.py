"""Who takes part in a step: a Poisson sample of patients, with at most k records of each."""

from __future__ import annotations

import torch
from torch import Tensor

from common.cohort.parts import Part
from common.privacy.noise import Source


def sample_patients(part: Part, source: Source, *, rate: float, max_records: int) -> Part:
    """Draw the patients of one step: each with probability `rate`, at most `max_records` records.

    Args:
        part: The patients to draw from.
        source: The stream that decides; secret at a real site.
        rate: q in (0, 1]; 1 takes everybody.
        max_records: k; the records of a patient who has more are drawn without replacement.
    """
    if rate == 1 and part.most_records <= max_records:
        return part
    chosen = source.uniform(part.patients) < rate  # rate 1 takes all: uniforms are below 1
    keep = torch.from_numpy(chosen)[part.patient]
    records = torch.nonzero(keep).reshape(-1)
    if part.most_records > max_records:
        order = torch.from_numpy(source.uniform(records.numel()))
        records = _first_of_each(part.patient[records], order, records, max_records)
    return part.select(records)


def _first_of_each(patient: Tensor, order: Tensor, records: Tensor, k: int) -> Tensor:
    """Return, of each patient, the k records that come first in `order`, in their old sequence."""
    shuffled = torch.argsort(order)
    by_patient = shuffled[torch.argsort(patient[shuffled], stable=True)]
    grouped = patient[by_patient]
    starts = torch.searchsorted(grouped, grouped)  # where the patient's own run begins
    rank = torch.arange(grouped.numel()) - starts
    return records[by_patient[rank < k]].sort().values
