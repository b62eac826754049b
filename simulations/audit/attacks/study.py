"""An attack on a study as it would run, with its privacy and without: the values of a page."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import t as student

from common.auc import auc_estimate
from common.auditing.membership import RATES, area, hits, roc
from common.cohort.parts import Cohort
from common.errors import GrandroundsError
from common.learners import learner_for
from common.learners.types import Patients
from common.metrics import Array
from common.models import build, initial_params
from common.params import Params
from common.plan import Plan, compile_study
from common.privacy.accounting import ACCOUNTANT, UNIT
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.privacy.perceptron import linear_layers
from common.seeds import derive
from common.study import Study
from simulations.audit.attacks.inversion import (
    Attacker,
    Victim,
    correlation,
    pick,
    read_alone,
    recovered,
)
from simulations.audit.attacks.membership import SCORES, infer
from simulations.world import scenario_of, world_of

Kind = Literal["inversion", "membership"]
Values = dict[str, Any]

KINDS: tuple[Kind, ...] = ("inversion", "membership")
WITHOUT, WITH = "without privacy", "with the study's privacy"

_SHOWN = 6  # patients in the page's picture
_POINTS = 200  # of a ROC curve on the page


def attack_study(
    study: Study,
    *,
    kind: Kind,
    seed: int,
    weights_from: Path | None = None,
    targets: int | None = None,
    iterations: int = 400,
    shadows: int = 16,
) -> Values:
    """Attack a study's simulated hospitals and return plain values for audit.json and the page.

    Args:
        study: With its simulation table and where its data lie.
        kind: What to try.
        seed: Of hospitals, weights, sampling and noise.
        weights_from: Where a weights file that the study names lies.
        targets: Patients to reconstruct; by default 12, or 2 where gradients must be matched.
        iterations: Of gradient matching.
        shadows: Runs that a membership attacker trains.

    Raises:
        GrandroundsError: the study or its data do not fit, or there are too few patients.
    """
    with tempfile.TemporaryDirectory() as scratch:  # a partition's files are patients
        cohorts = world_of(study, scenario_of(study), Path(scratch), seed).cohorts
    theta = initial_params(study, seed=seed, folder=weights_from)
    if kind == "inversion":
        found = _inversion(study, theta, cohorts, seed, targets, iterations)
    else:
        found = _membership(study, theta, cohorts, seed, shadows)
    return {
        "kind": kind,
        "study": study.name,
        "title": study.title or study.name,
        "study_digest": compile_study(study).digest,
        "model": study.model.name,
        "learner": study.learner.name,
        "seed": seed,
        "hospitals": len(cohorts),
        "contains_patient_data": kind == "inversion",
        **found,
    }


def _plans(study: Study) -> Iterator[tuple[str, Plan]]:
    yield WITHOUT, compile_study(study.with_epsilon(None))
    if study.privacy is not None:
        yield WITH, compile_study(study)


def _arm(name: str, plan: Plan) -> Values:
    promise = {
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "unit": UNIT,
        "adjacency": plan.adjacency,
        "accountant": ACCOUNTANT,
    }
    return {"name": name, "private": plan.private, **(promise if plan.private else {})}


def _inversion(
    study: Study,
    theta: Params,
    cohorts: Mapping[str, Cohort],
    seed: int,
    targets: int | None,
    iterations: int,
) -> Values:
    is_linear = linear_layers(build(study)) is not None
    victims = _victims(cohorts, targets or (12 if is_linear else 2), seed)
    arms, read = [], {}
    for name, plan in _plans(study):
        attacker = Attacker(plan, theta, iterations=iterations)
        read[name] = [attacker.read(victim) for _, victim in victims]
        each = [correlation(x, v.target.x) for x, (_, v) in zip(read[name], victims, strict=True)]
        informed = {"method": attacker.method, "correlation": _mean(each), "each": each}
        alone = _alone(plan, theta, cohorts, seed)
        arms.append({**_arm(name, plan), "informed": informed, "alone": alone})
    guesses = [correlation(v.others.x.mean(dim=0), v.target.x) for _, v in victims]
    return {"arms": arms, "guess": _mean(guesses), "patients": _shown(victims, read)}


def _victims(cohorts: Mapping[str, Cohort], number: int, seed: int) -> list[tuple[str, Victim]]:
    """Return so many victims, dealt in turn over the hospitals from the smallest on."""
    fit = [(n, c) for n, c in cohorts.items() if c.train.patients > 1]
    fit.sort(key=lambda item: item[1].train.patients)
    each = math.ceil(number / len(fit))
    found = [
        [(n, v) for v in pick(c.train, declared=c.declared, number=each, seed=derive(seed, n))]
        for n, c in fit
    ]
    dealt = itertools.chain.from_iterable(itertools.zip_longest(*found))
    return [item for item in dealt if item is not None][:number]


def _alone(plan: Plan, theta: Params, cohorts: Mapping[str, Cohort], seed: int) -> Values | None:
    """Return how many patients the coordinator alone reads off; of holdout patients it reads none.

    That some holdout patients seem to be among them says how often chance or a twin does it.
    """
    layers = linear_layers(build(plan.study))
    if layers is None:
        return None
    adapt, engine = learner_for(plan).adapt, PrivateModel(build(plan.study))
    found = {"read": 0, "patients": 0, "by_chance": 0, "others": 0}
    for name, cohort in cohorts.items():
        source = SeededSource(derive(seed, name, "alone"))
        patients = Patients(cohort.train, cohort.declared, cohort.classes)
        delta = adapt(engine, theta, patients, source)
        inputs = read_alone(delta, layers)
        found["read"] += recovered(inputs, cohort.train)
        found["patients"] += cohort.train.patients
        found["by_chance"] += recovered(inputs, cohort.holdout)
        found["others"] += cohort.holdout.patients
    return found


def _shown(victims: list[tuple[str, Victim]], read: Mapping[str, list[torch.Tensor]]) -> list[Any]:
    """Return some patients' inputs and what each arm gave back, as nested lists."""
    return [
        {
            "hospital": name,
            "original": victim.target.x[0].tolist(),
            "read": {arm: inputs[number][0].tolist() for arm, inputs in read.items()},
        }
        for number, (name, victim) in enumerate(victims[:_SHOWN])
    ]


def _mean(each: list[float]) -> Values:
    """Return the mean with Student's 95% interval over patients; no interval for one."""
    values = np.array(each)
    half = None
    if len(values) > 1:
        spread = float(values.std(ddof=1)) / math.sqrt(len(values))
        half = float(student.ppf(0.975, len(values) - 1)) * spread
    mean = float(values.mean())
    ends: Values = {"low": None, "high": None}
    if half is not None:
        ends = {"low": max(mean - half, -1.0), "high": min(mean + half, 1.0)}
    return {"mean": mean, **ends, "patients": len(values)}


def _membership(
    study: Study, theta: Params, cohorts: Mapping[str, Cohort], seed: int, shadows: int
) -> Values:
    arms: list[Values] = []
    for name, plan in _plans(study):
        judged = infer(plan, theta, cohorts, shadows=shadows, seed=seed)
        scores = {
            score: _judged(
                judged.ratios[score][judged.member], judged.ratios[score][~judged.member]
            )
            for score in SCORES
        }
        arms.append({**_arm(name, plan), "scores": scores})
    return {"arms": arms, "attack": "LiRA", "shadows": shadows}


def _judged(members: Array, others: Array) -> Values:
    """Return how well members and others are told apart; a rate too fine for them says so."""
    value = area(members, others)
    low, high = auc_estimate(value, positives=len(members), negatives=len(others)).interval()
    curve = roc(members, others)
    kept = np.unique(np.linspace(0, len(curve.false_positive) - 1, _POINTS).astype(int))
    return {
        "members": len(members),
        "others": len(others),
        "auc": {"value": value, "low": low, "high": high},
        "hits": [_hits(members, others, at) for at in RATES],
        "roc": np.stack([curve.false_positive[kept], curve.true_positive[kept]], axis=1).tolist(),
    }


def _hits(members: Array, others: Array, at: float) -> Values:
    try:
        return hits(members, others, at=at).to_json()
    except GrandroundsError as error:
        return {"at": at, "absent": error.message}
