"""A hospital's training patients as tasks: who is in the support, who in the query, which episode.

Parting is by keyed uniforms of each patient's own id (`common.cohort.split.task_draws`), so one
patient more or less leaves everybody else where they were.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from common.cohort.parts import Part
from common.errors import StudyError
from common.learner_spec import MetaSpec


def support_and_query(part: Part, meta: MetaSpec) -> tuple[Part, Part]:
    """Return whom the inner steps read and whom the query reads; both may be empty."""
    if meta.pool == "shared":
        return part, part
    query = _draws(part)[:, 0] < meta.query_fraction
    return part.of_patients(~query), part.of_patients(query)


def shares(meta: MetaSpec) -> tuple[float, float]:
    """Return the public shares of the training patients behind `support_and_query`.

    >>> shares(MetaSpec(query_fraction=0.25)), shares(MetaSpec(pool="shared"))
    ((0.75, 0.25), (1.0, 1.0))
    """
    if meta.pool == "shared":
        return 1.0, 1.0
    return 1.0 - meta.query_fraction, meta.query_fraction


def episodes(part: Part, meta: MetaSpec) -> Iterator[tuple[Part, Part]]:
    """Yield support and query of every episode, empty ones too: their number is public."""
    draws = _draws(part)
    query, place = draws[:, 0] < meta.query_fraction, (draws[:, 1] * meta.episodes).long()
    for number in range(meta.episodes):
        yield (
            part.of_patients((place == number) & ~query),
            part.of_patients((place == number) & query),
        )


def _draws(part: Part) -> Tensor:
    if part.draws is None:
        raise StudyError(
            "patients without keyed draws cannot be parted into support and query",
            remedy="read the cohort with common.cohort.read.read_cohort",
        )
    return part.draws
