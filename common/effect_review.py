"""A study of an effect in plain words, for `common.review`."""

from __future__ import annotations

from common.effect_spec import EffectSpec
from common.plan import Plan
from common.privacy import accounting

MEASURES = {
    "OR": "odds ratio",
    "RR": "risk ratio",
    "RD": "risk difference",
    "MD": "mean difference",
}


def _effect(plan: Plan) -> EffectSpec:
    effect = plan.study.effect
    assert effect is not None  # asked of such studies alone
    return effect


def counted(plan: Plan) -> str:
    """Say what is counted of whom."""
    effect, label = _effect(plan), plan.study.cohort.label
    if effect.kind == "table":
        return (
            f"all its patients by {effect.treatment} ({effect.treated} or {effect.control}) and "
            f"{label.column} ({label.classes[0]} or {label.classes[1]}): four counts"
        )
    feature = next(f for f in plan.study.cohort.features if f.name == effect.outcome)
    low, high = feature.range or (0.0, 0.0)
    return (
        f"all its patients by {label.column} ({label.classes[1]} or {label.classes[0]}), and the "
        f"sums of {effect.outcome} and of its square in each, {effect.outcome} held to "
        f"[{low:g}, {high:g}]: six numbers"
    )


def computes(plan: Plan) -> tuple[str, ...]:
    """Say what happens at the hospital."""
    records = "each patient weighs one, whatever the number of records"
    return (
        "trains nothing and receives no model",
        f"counts, once, {counted(plan)}; {records}, and incomplete records are left out",
    )


def leaves(plan: Plan) -> tuple[str, ...]:
    """Say what leaves it."""
    noise = "WITHOUT NOISE"
    if plan.private:
        noise = (
            "with Gaussian noise in every number, of standard deviation "
            f"{plan.release_sigma:.4g}"
            + (" patients" if _effect(plan).kind == "table" else " (the range taken as -1 to 1)")
        )
    return (
        "its name and its declared size, a rounded count that it chooses and publishes",
        f"these numbers, {noise}",
        f"the coordinator works out the {MEASURES[_effect(plan).measure]} of each hospital and "
        "pools them, the noise counted in",
    )


STAYS = (
    "every patient's record, and the exact counts",
    "the counts of clamped and missing values, and all errors that depend on patients",
)


def spends(plan: Plan) -> tuple[str, ...]:
    """Say what it costs a patient."""
    if not plan.private:
        return ("this study is NOT PRIVATE: it has no privacy table, and epsilon is infinite",)
    return (
        f"each patient: epsilon {plan.epsilon:.4g} with delta {plan.delta:g}, for the one release",
        "all patients are in it: nobody is kept for an evaluation, so no price is paid in parallel",
        f"unit: {accounting.UNIT}; adjacency: {accounting.ADJACENCIES[plan.adjacency]}; "
        f"accountant: {accounting.ACCOUNTANT}; a patient known to two hospitals pays at both",
        f"a hospital may declare at most {int(0.1 / plan.delta)} patients (delta at most "
        f"1/(10 x declared)) and at least {plan.study.cohort.min_declared}",
    )
