"""What the report says of hospitals left out: the verdict, the arms and the guarantee's reach."""

from __future__ import annotations

from collections.abc import Sequence

from common.report.loho_values import (
    Form,
    counted,
    judged_at,
    labelled,
    left_out_sites,
    mean_forms,
    shots_of,
)
from common.report.values import Metrics, finite, show
from common.report.words import epsilon_line, is_private

_OPPONENTS = (("local_weak",), ("local_strong",), ("pooled", "pooled_recalibrated"))
_MEASURES = (("auc", "AUC", 1), ("log_loss", "log-loss", -1))
_ARM_NOTES = {
    "local_weak": "A model of the hospital\u2019s labelled patients alone, under a weak prior.",
    "local_strong": "The same under a strong prior.",
    "pooled": "One model of all patients of the other hospitals, brought together.",
    "pooled_recalibrated": "Pooled, with its intercept refitted to the labelled patients.",
    "fedavg": "One model trained across the other hospitals by federated averaging.",
    "reptile": "One initialisation trained across the other hospitals by Reptile.",
    "fomaml": "One initialisation trained across the other hospitals by first-order MAML.",
    "maml": "One initialisation trained across the other hospitals by MAML.",
}


def verdict(metrics: Metrics) -> tuple[str, list[str]]:
    """Say how the main arm compares, at each number of labelled patients, whoever is ahead.

    The main arm is adapted where there are patients to adapt to. Each opponent stands, measure by
    measure, in its best form, so that the sentence cannot pick what flatters the main arm.

    Args:
        metrics: figures of a run; uses `mean`, `main_arm`, `shots`, `held_out`, `privacy`.

    Returns:
        One sentence: how it opens, and a clause for each number of labelled patients.

    >>> arms = {"reptile": {"auc": 0.84, "log_loss": 0.5}, "pooled": {"auc": 0.8, "log_loss": 0.5}}
    >>> verdict({"main_arm": "reptile", "shots": [0], "mean": {"0": arms}})[1]
    ... # doctest: +NORMALIZE_WHITESPACE
    ['with no labelled patient, reptile has AUC 0.840, better than pooled (0.800), and log-loss
    0.500, equal to pooled (0.500).']
    """
    clauses = [clause for shots in shots_of(metrics) if (clause := _clause(metrics, shots))]
    if not clauses:
        return "The main arm has no figures, so this run supports no comparison.", []
    start = f"With {epsilon_line(metrics).partition(';')[0]}" if is_private(metrics) else ""
    count = len(left_out_sites(metrics))
    over = f"on average over {counted(count)}, each left out of training in turn"
    if count == 1:
        over = "at the one hospital left out of training"
    ends = [*[f"{clause};" for clause in clauses[:-1]], f"{clauses[-1]}."]
    return f"{start or 'Without privacy'}, {over}:", ends


def _clause(metrics: Metrics, shots: int) -> str | None:
    forms = mean_forms(metrics, shots)
    mine = next((form for form in forms if form.main), None)
    if mine is None:
        return None
    few = _few(metrics, shots)
    name = f"{mine.arm} adapted to them" if mine.adapted else mine.arm
    said = [_measured(forms, mine, *measure) for measure in _MEASURES]
    joint = ", and " if "," in said[0] else " and "
    return f"with {labelled(shots)}{few}, {name} has {joint.join(said)}"


def _few(metrics: Metrics, shots: int) -> str:
    """Say how many hospitals a mean is of, where they are not all."""
    judged, known = judged_at(metrics, shots)
    words = []
    if 0 < judged < len(left_out_sites(metrics)):
        words.append(f"{judged} of the hospitals")
    if 0 < known < judged:
        words.append(f"the AUC of {known}, as it is not defined elsewhere")
    return f" ({'; '.join(words)})" if words else ""


def _measured(forms: Sequence[Form], mine: Form, key: str, label: str, sign: int) -> str:
    """Give one measure of the main form, and put the opponents on either side of it."""
    value = finite(mine.figures.get(key))
    if value is None:
        return f"{label} not defined"
    sides: dict[str, list[str]] = {"better than": [], "equal to": [], "worse than": []}
    for names in _OPPONENTS:
        rivals = [
            (sign * round(rival, 3), form.label.replace(", ", " "))
            for form in forms
            if form.arm in names and not form.main
            if (rival := finite(form.figures.get(key))) is not None
        ]
        if rivals:
            best, name = max(rivals, key=lambda rival: rival[0])
            gap = sign * round(value, 3) - best
            side = "equal to" if abs(gap) < 5e-4 else "better than" if gap > 0 else "worse than"
            sides[side].append(f"{name} ({show(sign * best)})")
    words = [f"{side} {_listed(names)}" for side, names in sides.items() if names]
    return ", ".join([f"{label} {show(value)}", *words])


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + [names[-1]])


def footing(metrics: Metrics) -> str:
    """Say on what the verdict stands: draws, seeds, and who is private."""
    draws = int(finite(metrics.get("draws")) or 0)
    words = ["Every hospital counts the same."]
    rivals = {form.arm for shots in shots_of(metrics) for form in mean_forms(metrics, shots)}
    if rivals & {name for names in _OPPONENTS for name in names}:
        words.append("Figures are compared to three decimals, opponents in their best form.")
    if draws and any(shots_of(metrics)):
        words.append(f"Labelled patients were drawn {draws} times." if draws > 1 else
                     "Labelled patients were drawn once.")  # fmt: skip
    words.append(
        "Training used one seed and no difference was tested, so a small one may be chance."
    )
    private = [str(arm) for arm in metrics.get("private_arms") or []]
    if is_private(metrics) and private:
        words.append(f"Of the arms, only {_listed(private)} {'is' if len(private) == 1 else 'are'} "
                     "trained privately.")  # fmt: skip
    return " ".join(words)


def reach(metrics: Metrics) -> str:
    """Say what the stated epsilon covers when each hospital is left out in turn."""
    if not is_private(metrics):
        return ""
    text = (
        "This epsilon is of one training, of one arm, without one hospital. "
        "The exact figures on this page are covered by no epsilon: they were possible because the "
        "hospitals are simulated in one place."
    )
    others = len(left_out_sites(metrics)) - 1
    if others > 1:
        text += (
            f" A patient trained in {others} such models of each private arm: hospitals that "
            "really repeated the training for each hospital left out would spend it each time."
        )
    return text


def arm_notes(metrics: Metrics) -> list[tuple[str, str]]:
    """List the arms that were judged, what each is and whether it is private."""
    judged = [form.arm for shots in shots_of(metrics) for form in mean_forms(metrics, shots)]
    order = [arm for arm in _ARM_NOTES if arm in judged]
    rows = []
    for arm in dict.fromkeys([*order, *judged]):
        kept = "Not private."
        if arm in (metrics.get("private_arms") or []) and is_private(metrics):
            kept = f"Private: {epsilon_line(metrics).partition(';')[0]}."
        elif arm.startswith("local"):
            kept = "Nothing leaves the hospital."
        rows.append((arm, f"{_ARM_NOTES.get(arm, '')} {kept}".strip()))
    return rows
