"""How the report reads the figures of hospitals left out: arms, their forms, numbers of shots.

A shot is a labelled patient of the hospital left out, known to whoever adapts the model to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.report.values import Metrics, finite, show

NOT_DEFINED = "not defined"
LEAVE_ONE_OUT = "leave one hospital out"  # what such metrics call themselves


@dataclass(frozen=True)
class Form:
    """An arm as it is, or adapted to the labelled patients.

    Attributes:
        label: What the report calls it.
        arm: The arm's name.
        adapted: Whether it was adapted to the labelled patients.
        main: Whether it is the form of the main arm that the report follows.
        figures: By name, as in the metrics.
    """

    label: str
    arm: str
    adapted: bool
    main: bool
    figures: Mapping[str, Any]


def shots_of(metrics: Metrics) -> list[int]:
    """List the numbers of labelled patients, in order.

    >>> shots_of({"shots": [16, 0]})
    [0, 16]
    """
    return sorted(int(number) for number in metrics.get("shots") or [])


def forms_of(metrics: Metrics, arms: Mapping[str, Any] | None, shots: int) -> list[Form]:
    """List arms' forms in the order given; with no labelled patient nothing can be adapted.

    >>> arms = {"pooled": {"auc": 0.8, "adapted": {"auc": 0.9}}}
    >>> [form.label for form in forms_of({}, arms, 16)], len(forms_of({}, arms, 0))
    (['pooled', 'pooled, adapted'], 1)
    """
    found = []
    for arm, figures in (arms or {}).items():
        adapted = (figures.get("adapted") or {}) if shots else {}
        is_main = arm == metrics.get("main_arm")
        found.append(Form(str(arm), str(arm), False, is_main and not adapted, figures))
        if adapted:
            found.append(Form(f"{arm}, adapted", str(arm), True, is_main, adapted))
    return found


def mean_forms(metrics: Metrics, shots: int) -> list[Form]:
    """Return `forms_of` the means over hospitals."""
    return forms_of(metrics, (metrics.get("mean") or {}).get(str(shots)), shots)


def main_figures(metrics: Metrics, site: str, shots: int) -> Mapping[str, Any] | None:
    """Return the main arm's figures at a hospital; None if it was not judged at so many shots."""
    arms = ((metrics.get("held_out") or {}).get(site) or {}).get(str(shots))
    return next((form.figures for form in forms_of(metrics, arms, shots) if form.main), None)


def pooled_main(metrics: Metrics, shots: int) -> Mapping[str, Any]:
    """Return the main arm's random-effects figures, empty where there are none."""
    arms = (metrics.get("pooled") or {}).get(str(shots))
    return next((form.figures for form in forms_of(metrics, arms, shots) if form.main), {})


def left_out_sites(metrics: Metrics) -> list[str]:
    """List the hospitals that were left out in turn, in the study's order."""
    return [str(name) for name in metrics.get("held_out") or {}]


def judged_at(metrics: Metrics, shots: int) -> tuple[int, int]:
    """Return how many hospitals were judged, and at how many of these the AUC is defined.

    >>> held_out = {"a": {"16": {"pooled": {"auc": 0.8}}}, "b": {"16": {"pooled": {}}}, "c": {}}
    >>> judged_at({"held_out": held_out}, 16)
    (2, 1)
    """
    found = [(site or {}).get(str(shots)) for site in (metrics.get("held_out") or {}).values()]
    judged = [arms for arms in found if arms]
    known = [any(finite(f.get("auc")) is not None for f in arms.values()) for arms in judged]
    return len(judged), sum(known)


def averaged(metrics: Metrics, shots: int) -> str:
    """Say over how many hospitals a mean is, and that of the AUC where these are fewer.

    >>> held_out = {"a": {"0": {"pooled": {}}}, "b": {"0": {"pooled": {"auc": 1.0}}}}
    >>> averaged({"held_out": held_out}, 0)
    '2 hospitals (AUC: one hospital)'
    """
    judged, known = judged_at(metrics, shots)
    return counted(judged) + (f" (AUC: {counted(known)})" if 0 < known < judged else "")


def by_declared(metrics: Metrics) -> list[Mapping[str, Any]]:
    """List the centres, those refused last, largest declared size first."""
    judged = set(left_out_sites(metrics))
    return sorted(
        metrics.get("centres") or [],
        key=lambda row: (row.get("name") not in judged, -(finite(row.get("declared")) or 0)),
    )


def labelled(shots: int) -> str:
    """Name a number of labelled patients.

    >>> labelled(0), labelled(1), labelled(16)
    ('no labelled patient', '1 labelled patient', '16 labelled patients')
    """
    return f"{shots or 'no'} labelled patient{'s' if shots > 1 else ''}"


def counted(number: int, noun: str = "hospital") -> str:
    """Write a number with its noun.

    >>> counted(1), counted(4)
    ('one hospital', '4 hospitals')
    """
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def show_auc(value: object, digits: int = 3) -> str:
    """Write an AUC; without both outcomes it is not defined, rather than missing.

    >>> show_auc(0.5), show_auc(None)
    ('0.500', 'not defined')
    """
    return NOT_DEFINED if finite(value) is None else show(value, digits)
