"""The finished model on new cases: as it was received, or adapted to the hospital's own patients.

For research. A prediction is of one person and leaves by no gate: it is for the hospital alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from client.desk.received import Received, load
from client.ledger import Ledger
from client.patients.judging import Bench
from client.site import load_site
from common.cohort.inputs import Inputs, read_inputs
from common.errors import DataError, SiteError
from common.models import load_params, predict
from common.report.site_values import Judged
from common.report.values import show
from common.study import Study

Form = Literal["received", "adapted"]

RESEARCH = "for research; not for clinical use"
MARKS: dict[Form, str] = {
    "received": RESEARCH,
    "adapted": f"{RESEARCH}; does not leave the hospital",
}


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of new cases.

    Attributes:
        received: The model's run and study.
        form: As received, or adapted.
        cases: What was read.
        probabilities: (records, classes); the rows of `left_out` are not to be used.
        left_out: Records the study's complete-cases rule leaves out, (records,).
        about: What these probabilities are and how far to trust them, in sentences.
    """

    received: Received
    form: Form
    cases: Inputs
    probabilities: np.ndarray
    left_out: np.ndarray
    about: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The study's classes, in order."""
        return self.received.plan.study.cohort.label.classes

    @property
    def mark(self) -> str:
        """What every row is marked with."""
        return MARKS[self.form]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was missing, out of range or left out, with counts."""
        left = int(self.left_out.sum())
        if not left:
            return self.cases.notes
        said = f"{left} of {len(self.left_out)} records miss a feature and have no probability: "
        return (*self.cases.notes, said + "the study takes complete cases only")

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a record: its number, patient, probabilities, model and mark."""
        names = self.cases.patients
        rows = []
        for number, values in enumerate(self.probabilities.tolist(), start=1):
            row: dict[str, Any] = {"record": number}
            if names is not None:
                row["patient"] = names[number - 1]
            known = not self.left_out[number - 1]
            for name, value in zip(self.classes, values, strict=True):
                row[f"probability {name}"] = round(value, 6) if known else None
            rows.append({**row, "model": f"{self.received.run}, {self.form}", "use": self.mark})
        return rows

    def to_csv(self) -> str:
        """Return the rows as comma-separated text; every row is marked."""
        return csv_of(self.rows())

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        plan = self.received.plan
        return {
            "study": plan.study.name,
            "digest": plan.digest,
            "run": self.received.run,
            "form": self.form,
            "use": self.mark,
            "about": list(self.about),
            "notes": list(self.notes),
            "predictions": self.rows(),
        }


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same columns as comma-separated text.

    >>> csv_of([{"record": 1, "patient": "x"}])
    'record,patient\\n1,x\\n'
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def predict_cases(
    folder: Path, ledger: Ledger, cases: Path, *, run: str | None = None, form: Form = "received"
) -> Predictions:
    """Predict new cases with a delivered model.

    Args:
        folder: The site's folder.
        ledger: The site's ledger: who has withdrawn is not adapted to.
        cases: New cases; see `common.cohort.inputs.read_inputs`.
        run: Whose model; see `client.desk.received.load`.
        form: As received, or adapted to the hospital's own training patients.

    Raises:
        SiteError: no such model was delivered.
        DataError: the cases do not fit the study, or, to adapt, the hospital's own data do not.
    """
    received = load(folder, run)
    study = received.plan.study
    inputs = read_inputs(cases, study.cohort)
    bench = Bench(load_site(folder), ledger, received)
    params = bench.adapted if form == "adapted" else received.params
    about = _about(bench, form, _judged(bench, form))
    load_params(bench.model, params)
    probabilities = predict(bench.model, torch.from_numpy(inputs.x)).numpy()
    left_out = inputs.incomplete & study.cohort.complete_cases
    return Predictions(received, form, inputs, probabilities, left_out, about)


def _judged(bench: Bench, form: Form) -> Judged | str:
    """Return the model's figures on the hospital's own holdout, or why there are none."""
    try:
        return bench.judge(bench.adapted if form == "adapted" else bench.received.params)
    except (DataError, SiteError) as error:  # as received it needs none of the hospital's own data
        if form == "adapted":
            raise
        return error.message


def _about(bench: Bench, form: Form, found: Judged | str) -> tuple[str, ...]:
    received = bench.received
    study = received.plan.study
    what = f"the model of study {study.title or study.name}, run {received.run}"
    if form == "adapted":
        said = (
            f"Probabilities by {what}, adapted without noise to this hospital's own "
            f"{bench.cohort.train.patients} training patients: {MARKS['adapted']}."
        )
    else:
        said = f"Probabilities by {what}, as received: {RESEARCH}."
    said += _of_survival(study)
    if isinstance(found, str):
        return said, f"How well it does on this hospital's own patients is not known ({found})."
    return said, _how_well(found)


def _of_survival(study: Study) -> str:
    """Say what a probability is of, where it is of an event in time."""
    label = study.cohort.label
    if label.horizon is None:
        return ""
    if study.model.likelihood == "cox":
        return " They rank patients by risk, and are no probabilities (Cox's partial likelihood)."
    return f" A probability is that of {label.classes[1]!r} by {label.column} = {label.horizon:g}."


def _how_well(found: Judged) -> str:
    """Say what the hospital's own holdout patients say of the model, and of its probabilities."""
    figures = found["figures"]
    ends = (
        ""
        if found["auc_low"] is None
        else f" (95% interval {show(found['auc_low'], 2)} to {show(found['auc_high'], 2)})"
    )
    said = (
        f"On this hospital's own {show(figures['patients'], 0)} holdout patients its AUC is "
        f"{show(figures['auc'], 2)}{ends}"
    )
    if figures["brier"] is not None:
        said += f" and its Brier score {show(figures['brier'], 3)}"
    if figures["kappa"] is not None:
        said += f"; its quadratic weighted kappa of the grade is {show(figures['kappa'], 2)}"
    if figures["c_index"] is not None:
        said += f"; its concordance index with the times is {show(figures['c_index'], 2)}"
    slope, ratio = figures["calibration_slope"], figures["observed_expected"]
    if slope is None or ratio is None:
        return f"{said}; its calibration could not be measured on them, so read no risk off it."
    return (
        f"{said}; where it expected 100 with the outcome there were {show(100 * ratio, 0)}, "
        f"and its calibration slope is {show(slope, 2)} (1 is ideal; "
        f"{'below 1 its risks are too extreme' if slope < 1 else 'above 1 too timid'})."
    )
