"""The page of an attack on a study: what a coordinator could do with the deltas.

`attack_page.html` only lays it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report.figures_attack import correlations, read_beside_original, roc_curves
from common.report.layout import fill, numbered
from common.report.values import DASH, Metrics, finite, show

PATIENTS = "patients\u2019 data: must not leave"
SIMULATED = "simulation: exact"

_SCORES = {"deltas": "the hospital\u2019s deltas", "model": "the final model alone"}


def attack_html(values: Metrics) -> str:
    """Write the page of an attack as one HTML file with its styles and pictures inside.

    Args:
        values: As `grandrounds audit attack` writes them to audit.json.

    Returns:
        The whole file as text; equal values give equal text.
    """
    is_inversion = values["kind"] == "inversion"
    return fill(
        "attack_page.html",
        {"title": f"Attack by {values['kind']}: {values['title']}", "study": values["study"]},
        verdict=attack_verdict(values),
        marked=bool(values["contains_patient_data"]),
        inversion=_inversion_rows(values) if is_inversion else [],
        membership=[] if is_inversion else _membership_rows(values),
        notes=_notes(values),
        pictures=_pictures(values),
        rebuild=f"grandrounds audit attack {values['study']} --kind {values['kind']} "
        f"--seed {values['seed']}",
        footer=[
            ("Study", values["study"]),
            ("Digest", values["study_digest"][:16]),
            ("Model, learner", f"{values['model']}, {values['learner']}"),
            ("Hospitals", str(values["hospitals"])),
            ("Seed", str(values["seed"])),
        ],
    )


def attack_verdict(values: Metrics) -> str:
    """Say in one sentence what the attack did without privacy and with the study's."""
    said = [_did(arm) for arm in values["arms"]]
    if len(said) == 1:
        said.append("the study has no privacy table, so nothing else was tried")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def _did(arm: Mapping[str, Any]) -> str:
    name = arm["name"]
    if arm["private"]:
        name += f" (epsilon {arm['epsilon']:.3g} at delta {arm['delta']:.2g})"
    if "informed" in arm:
        found = arm["informed"]["correlation"]
        return (
            f"{name}, what was read of {found['patients']} patients correlates "
            f"{show(found['mean'])} with them on average"
        )
    found = arm["scores"]["deltas"]["auc"]
    return (
        f"{name}, the deltas tell members from others with an AUC of {show(found['value'])} "
        f"{_ends(found, 3)}"
    )


def _ends(found: Mapping[str, Any], digits: int) -> str:
    if finite(found["low"]) is None:
        return ""
    return f"[{show(found['low'], digits)}, {show(found['high'], digits)}]"


def _inversion_rows(values: Metrics) -> list[list[str]]:
    rows = []
    for arm in values["arms"]:
        found, alone = arm["informed"], arm["alone"]
        mean = found["correlation"]
        read, chance = DASH, DASH
        if alone is not None:
            read = f"{alone['read']} of {alone['patients']}"
            chance = f"{alone['by_chance']} of {alone['others']}"
        figure = f"{show(mean['mean'])} {_ends(mean, 2)}".strip()
        rows.append([arm["name"], found["method"], figure, read, chance])
    return rows


def _membership_rows(values: Metrics) -> list[list[str]]:
    rows = []
    for arm in values["arms"]:
        for score, found in arm["scores"].items():
            auc = f"{show(found['auc']['value'])} {_ends(found['auc'], 3)}"
            rates = [
                "too few"
                if "absent" in hit
                else f"{hit['tpr']:.1%} [{hit['tpr_low']:.1%}, {hit['tpr_high']:.1%}]"
                for hit in found["hits"]
            ]
            counts = f"{found['members']}, {found['others']}"
            rows.append([f"{arm['name']}, by {_SCORES[score]}", counts, auc, *rates])
    return rows


def _notes(values: Metrics) -> list[str]:
    if values["kind"] == "membership":
        absent = values["arms"][0]["scores"]["deltas"]["hits"]
        notes = [
            f"{values['attack']} with {values['shadows']} shadow runs of the study. A coin decided "
            "for every patient whether the attacked run trained on it. An AUC of .5 is chance.",
            *(f"{hit['absent']}." for hit in absent if "absent" in hit),
        ]
    else:
        notes = [
            "The informed attacker knows the plan, the software, every other patient of the "
            "hospital and who was sampled; it does not know the noise. The coordinator alone knows "
            "the plan and the delta. Both attack the first round.",
            f"Who reads nothing and guesses the mean of the other patients reaches "
            f"{show((values.get('guess') or {}).get('mean'))}.",
            "The coordinator alone counts as reading a patient from a correlation of .99; the same "
            "count among holdout patients, who are not in the delta, is what chance and twins do.",
        ]
    if values["kind"] == "inversion" and values["arms"][0]["informed"]["method"] != "closed form":
        notes.append(
            "Gradients were matched in the first step alone. In networks with ReLU and pooling the "
            "search mostly ends in a minimum that is nobody: a weakness of this attack, not a "
            "protection."
        )
    return [
        *notes,
        "An attack that fails proves nothing: a better one may succeed, within epsilon.",
    ]


def _pictures(values: Metrics) -> dict[str, dict[str, Any]]:
    captions = {
        "patients": (
            read_beside_original,
            PATIENTS,
            "Some of the attacked patients, and what was read of them. Pictures are stretched to "
            "their own range; bars are a table\u2019s encoded values, each row to its own scale.",
        ),
        "correlations": (
            correlations,
            SIMULATED,
            "A circle is a patient; at 1 the input was read exactly, at 0 nothing was.",
        ),
        "roc": (
            roc_curves,
            SIMULATED,
            "On the diagonal the attack is no better than a coin.",
        ),
    }
    return numbered(
        (name, draw(values), label, caption, "")
        for name, (draw, label, caption) in captions.items()
    )
