"""What a study would find in a site's own files: exact figures, for the hospital's eyes only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from client.ledger import Ledger
from client.patients.manifest import confirmed_digest, has_changed
from client.patients.withdrawal import withdrawn_at
from client.site import Site
from common.cohort.parts import Cohort, Part
from common.cohort.read import read_cohort
from common.cohort.schema import CohortSchema, Label
from common.errors import GrandroundsError
from common.judging import outcomes
from common.models import build, pick_device
from common.plan import Plan
from common.privacy.accounting import delta_limit
from common.survival import CENSORED

_UNKNOWN = "censored before the horizon"

EYES = "for the hospital's eyes only: exact figures, not to be sent anywhere"


def check_up(site: Site, ledger: Ledger, plan: Plan) -> dict[str, Any]:
    """Read the cohort as a study would, and change nothing.

    Args:
        site: The site's folder, read, with the cohort in question chosen.
        ledger: Says who has withdrawn, and which files were approved.
        plan: The study.

    Returns:
        Plain values: counts of patients and records by part and class, the range of each input
        column as it was measured, what the reader noted (missing, clamped, copies, withdrawn),
        sizes against those declared, the device, and `problems`: sentences, none if all is well.

    Raises:
        DataError: the files cannot be read as the study wants them.
    """
    cohort = read_cohort(site.source, plan.study.cohort, without=withdrawn_at(site.folder, ledger))
    parts = {"train": cohort.train, "holdout": cohort.holdout}
    label = plan.study.cohort.label
    patients = sum(part.patients for part in parts.values())
    return {
        "note": EYES,
        "study": plan.study.name,
        "digest": plan.digest,
        "cohort": site.cohort_name,
        "approved": site.plan_path(plan.digest) is not None,
        "patients": patients,
        "declared": site.cohort.declared,
        "parts": {name: _part(part, label) for name, part in parts.items()},
        "ranges": _ranges(cohort, plan.study.cohort),
        "notes": list(cohort.notes),
        "device": _device(site),
        "confirmed": confirmed_digest(site, ledger, plan.study.cohort) is not None,
        "changed": has_changed(site, ledger, plan.study.cohort),
        "problems": _problems(site, ledger, plan, cohort, patients),
    }


def _part(part: Part, label: Label) -> dict[str, Any]:
    """Count a part's patients and records; of survival also those censored before the horizon."""
    y, patient = outcomes(part, label), part.patient.numpy()
    names = dict(enumerate(label.classes))
    if label.event is not None:
        names[CENSORED] = _UNKNOWN
    return {
        "patients": part.patients,
        "records": int(part.y.numel()),
        "most_records": part.most_records,
        "classes": {
            name: {"records": int((y == c).sum()), "patients": len(np.unique(patient[y == c]))}
            for c, name in names.items()
        },
    }


def _ranges(cohort: Cohort, schema: CohortSchema) -> list[dict[str, Any]]:
    """Return lowest, mean and highest of each number, in the study's own unit, once clamped."""
    x = torch.cat([cohort.train.x, cohort.holdout.x]).double()
    rows, column = [], 0
    for feature in schema.features:
        if feature.kind == "number" and feature.range is not None:
            low, high = feature.range
            center = (low + high) / 2 if feature.center is None else feature.center
            scale = (high - low) / 2 if feature.scale is None else feature.scale
            values = x[:, column] * scale + center
            # Inputs are float32: more digits would be of the rounding.
            found = [float(f"{v:.5g}") for v in (values.min(), values.mean(), values.max())]
            rows.append({"name": feature.name, "range": [low, high], "found": found})
        column += feature.width
    return rows


def _device(site: Site) -> dict[str, Any]:
    device = pick_device(site.device)
    if device.type != "cuda":
        return {"device": str(device), "threads": torch.get_num_threads()}
    free, whole = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return {"device": str(device), "name": name, "free_gb": free / 1e9, "memory_gb": whole / 1e9}


def _problems(site: Site, ledger: Ledger, plan: Plan, cohort: Cohort, patients: int) -> list[str]:
    """Say what does not fit, each in a sentence with its remedy."""
    declared, found = site.cohort.declared, []
    least = max(site.policy.min_cohort, plan.study.cohort.min_declared)
    if patients < least:
        found.append(f"{patients} patients are fewer than the least of {least}: wait for more")
    if not 0.8 <= patients / declared <= 1.25:
        found.append(
            f"{patients} patients fit, and {declared} are declared: the declared count should be "
            "near, rounded; it is in cohort.toml, chosen once"
        )
    if plan.delta > delta_limit(declared):
        found.append(
            f"delta {plan.delta:g} is above 1/(10 x declared) = {delta_limit(declared):.3g}: "
            "ask for a study with a smaller delta"
        )
    for name, part in (("train", cohort.train), ("holdout", cohort.holdout)):
        label = plan.study.cohort.label
        absent = set(range(len(label.classes))) - set(outcomes(part, label).tolist())
        found += [f"no {name} patient is of class {label.classes[c]!r}" for c in sorted(absent)]
    if has_changed(site, ledger, plan.study.cohort):
        found.append(
            "the files are others than those approved, so the agent refuses: look why, then "
            "run site check --confirm"
        )
    try:
        build(plan.study)
    except GrandroundsError as error:
        found.append(f"the model cannot be built: {error.message}")
    return found
