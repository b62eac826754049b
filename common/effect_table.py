"""What a hospital counts for a study of an effect, before noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.cohort.parts import Part
from common.cohort.schema import CohortSchema, Feature
from common.effect_spec import EffectSpec

Floats = NDArray[np.float64]


def effect_table(part: Part, spec: EffectSpec, cohort: CohortSchema) -> Floats:
    """Count the patients of a whole cohort by arm, each with a mass of one.

    A record that is in neither arm counts nowhere. No value of a patient raises an error.

    Guarantees
        Neighbours differ in one patient more or less. The mass of a record is 1 / (records of its
        patient), so the records of a patient weigh 1 together whatever their number, and nobody
        else's mass changes.

        'table': a record falls in one of the four cells or in none, so a patient adds a
        non-negative vector v of sum at most 1, and |v|_2 <= |v|_1 <= 1.

        'mean': a record of value u adds its mass times (1, u, u^2) to its arm. u is in [-1, 1]: it
        is worked out here from the declared range and clipped here. So a record adds its mass
        times a vector no longer than sqrt(1 + 1 + 1), and a patient, a mean of such vectors at
        most, no more than sqrt(3) (triangle inequality).

        All patients of the cohort are in the release and there is no other, so a patient pays for
        one Gaussian mechanism of `EffectSpec.sensitivity`, neither sampled nor parted.

    Args:
        part: Everybody: a study of an effect has no holdout.
        spec: The study's `[effect]` table.
        cohort: The schema by which the part was read.

    Returns:
        (1, 2, 2): treated first, no event before event; or (1, 2, 3): patients, sum of u and sum
        of u^2 of each arm, u being -1 and 1 at the ends of the feature's range.
    """
    mass, y = part.weights.numpy(), part.y.numpy()
    x = part.x.numpy().astype(np.float64)
    table = np.zeros(spec.shape)
    if spec.kind == "table":
        feature, first = _place(cohort, str(spec.treatment))
        columns = [first + feature.categories.index(str(c)) for c in (spec.treated, spec.control)]
        # '3' and '3.0' are the same number: a record that is both is treated, and counts once.
        treated = x[:, columns[0]] == 1
        for arm, here in enumerate((treated, (x[:, columns[1]] == 1) & ~treated)):
            for event in (0, 1):
                table[0, arm, event] = mass[here & (y == event)].sum()
        return table
    feature, first = _place(cohort, str(spec.outcome))
    u = _unit(x[:, first], feature)
    for arm, group in enumerate((1, 0)):
        here = y == group
        table[0, arm] = [float((mass * u**power)[here].sum()) for power in (0, 1, 2)]
    return table


def _place(cohort: CohortSchema, name: str) -> tuple[Feature, int]:
    """Return a feature and the number of its first input."""
    first = 0
    for feature in cohort.features:
        if feature.name == name:
            return feature, first
        first += feature.width
    raise ValueError(f"cohort has no feature {name!r}")  # the study was checked: never


def _unit(x: Floats, feature: Feature) -> Floats:
    """Return a number's inputs on the scale on which its range is [-1, 1]; not a number is 0."""
    assert feature.range is not None  # Feature holds it for numbers
    low, high = feature.range
    center, scale = (low + high) / 2, (high - low) / 2
    raw = x * (scale if feature.scale is None else feature.scale)
    raw = raw + (center if feature.center is None else feature.center)
    unit: Floats = np.clip(np.nan_to_num((raw - center) / scale), -1.0, 1.0)
    return unit
