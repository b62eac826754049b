"""Leave one hospital out: how the model does where nobody trained it.

Each hospital in turn takes no part. The others train on their training patients; the one left out
is then met with no labelled patient of its own, or with a few: they are drawn at random from all
its patients, the model is adapted to them (or its intercept alone, or a model is made of them
alone), and the patients that remain judge it. This is internal-external cross-validation (Royston
et al. 2004; Steyerberg and Harrell 2016; Debray et al. 2023, TRIPOD-Cluster).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from torch import Tensor, nn

from common.auc import AucEstimate, auc_estimate
from common.cohort.parts import Part, join
from common.errors import StudyError
from common.learners.adaptation import adapt_locally
from common.metrics import Figures, figures, net_benefit
from common.models import build, initial_params, load_params, predict
from common.params import Params
from common.plan import Plan
from common.scenario import LeaveOneOut
from common.seeds import derive
from common.study import AdaptationSpec, Study
from simulations.arms import plan_of, pooled
from simulations.engines import Engine, open_engine
from simulations.partitions.types import Hospital
from simulations.world import (
    Say,
    World,
    check_quorum,
    federated_params,
    notes_of,
    scenario_of,
    world_of,
)

ALONE = ("local_weak", "local_strong", "pooled_recalibrated")

_RECALIBRATION_PRIOR = 0.1  # on the shift of the intercept: one class alone must not send it away
_LARGEST_SHIFT = 10.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """One model on the patients of a hospital left out.

    Attributes:
        figures: Exact figures.
        auc: The AUC with its sampling error, None where it is not defined or of several classes.
        benefit: Net benefit by threshold: (threshold, model, treat all).
    """

    figures: Figures
    auc: AucEstimate | None
    benefit: tuple[tuple[float | None, float | None, float | None], ...]


@dataclass(frozen=True)
class LeftOut:
    """A hospital that took no part.

    Attributes:
        shots: Number of labelled patients -> arm -> one judgement a draw. An adapted arm is named
            with '+adapted'.
        outcomes: Patients of the last class, in mass, of all its patients.
        eligible: Records of its file, before incomplete ones are left out.
        missing: How many of these miss each feature that any misses.
        calibration: Arm -> (mean score, observed share, patients) by tenths of the score, shots 0.
    """

    name: str
    declared: int
    patients: int
    records: int
    outcomes: float
    eligible: int
    missing: Mapping[str, int]
    notes: tuple[str, ...]
    shots: Mapping[int, Mapping[str, list[Judged]]]
    calibration: Mapping[str, list[tuple[float, float, float]]]


@dataclass(frozen=True)
class LeaveOneOutRun:
    """Everything `sim loho` found, before it is told."""

    study: Study
    plans: Mapping[str, Plan]
    sites: tuple[LeftOut, ...]
    hospitals: tuple[Hospital, ...]
    refused: Mapping[str, str]


def leave_one_out(study: Study, run_dir: Path, *, engine: str, say: Say) -> LeaveOneOutRun:
    """Leave out each hospital in turn.

    Args:
        study: With its simulation table as the run is to be.
        run_dir: As `simulations.runner.prepare` made it.
        engine: See `simulations.engines`.
        say: Told what happens, a line each.

    Raises:
        GrandroundsError: as `simulations.runner.compare`, or the study is of survival; the folder
            can be resumed.
    """
    study.check_has_classes("sim loho")
    scenario = scenario_of(study)
    shared = ("pooled", *reversed(scenario.loho.arms))
    plans = {name: plan_of(study, scenario.arm_named(name)) for name in shared}
    world = world_of(study, scenario, run_dir, scenario.seed)
    refused = {name: _took_no_part(reason) for name, reason in world.left_out.items()}
    for name, reason in refused.items():
        say(f"{name} {reason}")
    _check(study, scenario.loho, world)
    sites = []
    with open_engine(engine, run_dir=run_dir) as run_job:
        for name in world.cohorts:
            sites.append(_leave_out(name, world, plans, run_job))
            say(f"{name} left out: done")
    return LeaveOneOutRun(study, plans, tuple(sites), tuple(world.hospitals), refused)


def _took_no_part(reason: str) -> str:
    """Return why a hospital is not in it; 'left out' is here what happens to the others in turn."""
    return f"took no part: {reason.removeprefix('left out: ')}"


def _check(study: Study, rules: LeaveOneOut, world: World) -> None:
    """Refuse what cannot be done with these hospitals, before anything is trained."""
    count = len(world.cohorts)
    if count < 2:
        raise StudyError(
            f"study {study.name!r} has {count} hospital large enough to take part: "
            "leaving one out leaves nobody to train",
            remedy="give at least two hospitals, or lower cohort.min_declared",
        )
    check_quorum(study, taking_part=count, left_out=1)
    most = max(c.train.patients + c.holdout.patients for c in world.cohorts.values())
    above = [number for number in rules.shots if number >= most]
    if above:
        raise StudyError(
            f"--shots (simulation.loho.shots) has {above[0]}, and no hospital has more than "
            f"{most} patients: somebody must be left to judge",
            remedy=f"give numbers below {most}",
        )


def _leave_out(name: str, world: World, plans: Mapping[str, Plan], run_job: Engine) -> LeftOut:
    others, cohort = world.without(name), world.cohorts[name]
    everybody = join([cohort.train, cohort.holdout])
    shared = _shared_params(name, others, plans, run_job)
    rules, study = world.scenario.loho, plans["pooled"].study
    model = build(study)
    shots = {
        number: _at_shots(number, world.seed, name, everybody, model, shared, study, rules)
        for number in rules.shots
        if number < everybody.patients
    }
    positive = everybody.weights[everybody.y == everybody.y.new_tensor(_last_class(study))]
    return LeftOut(
        name=name,
        declared=cohort.declared,
        patients=everybody.patients,
        records=len(everybody.y),
        outcomes=float(positive.sum()),
        eligible=cohort.eligible,
        missing=dict(cohort.missing),
        notes=notes_of(world)[name],
        shots=shots,
        calibration={arm: _tenths(model, params, everybody) for arm, params in shared.items()},
    )


def _shared_params(
    name: str, others: World, plans: Mapping[str, Plan], run_job: Engine
) -> dict[str, Params]:
    """Train every arm that shares a model on the other hospitals."""
    plan = plans["pooled"]
    initial = initial_params(plan.study, seed=others.seed, folder=others.run_dir)
    params = {"pooled": pooled(plan, initial, others.cohorts, seed=others.seed)}
    for arm in [a for a in plans if a != "pooled"]:
        job = f"{arm}-without-{name}"
        params[arm], _ = federated_params(others, job, plans[arm], run_job)
    return params


def _at_shots(
    number: int,
    seed: int,
    name: str,
    everybody: Part,
    model: nn.Module,
    shared: Mapping[str, Params],
    study: Study,
    rules: LeaveOneOut,
) -> dict[str, list[Judged]]:
    """Return arm -> judgements for one number of labelled patients."""
    found: dict[str, list[Judged]] = {}
    for labelled, rest in _draws(everybody, number, rules.draws, seed=derive(seed, "loho", name)):
        for arm, scores in _scores(model, shared, labelled, rest, study, rules):
            judged = _judge(scores, rest, ordinal=study.cohort.label.ordinal)
            found.setdefault(arm, []).append(judged)
    return found


def _draws(part: Part, number: int, draws: int, *, seed: int) -> Iterator[tuple[Part | None, Part]]:
    """Yield (labelled, the others); with no labelled patient everybody judges, once."""
    if number == 0:
        yield None, part
        return
    for draw in range(draws):
        rng = np.random.default_rng(derive(seed, number, draw))
        chosen = np.zeros(part.patients, dtype=np.bool_)
        chosen[rng.choice(part.patients, size=number, replace=False)] = True
        is_labelled = torch.from_numpy(chosen)[part.patient]
        yield _records(part, is_labelled), _records(part, ~is_labelled)


def _records(part: Part, keep: Tensor) -> Part:
    return part.select(torch.nonzero(keep).reshape(-1))


def _scores(
    model: nn.Module,
    shared: Mapping[str, Params],
    labelled: Part | None,
    rest: Part,
    study: Study,
    rules: LeaveOneOut,
) -> Iterator[tuple[str, Floats]]:
    """Yield (arm, scores of the rest) for every arm that this number of shots allows."""
    for arm, params in shared.items():
        plain = _predicted(model, params, rest)
        yield arm, plain
        if labelled is None:
            yield f"{arm}+adapted", plain  # nothing to adapt to: the same model
            continue
        adapted = adapt_locally(model, params, labelled, _spec(study, rules.prior))
        yield f"{arm}+adapted", _predicted(model, adapted, rest)
        if arm == "pooled" and plain.shape[1] == 2:
            shift = _intercept(_predicted(model, params, labelled), labelled)
            yield "pooled_recalibrated", _shifted(plain, shift)
    if labelled is not None:
        start = initial_params(study, seed=0)
        for arm, prior in (("local_weak", rules.weak_prior), ("local_strong", rules.strong_prior)):
            alone = adapt_locally(model, start, labelled, _spec(study, prior))
            yield arm, _predicted(model, alone, rest)


def _spec(study: Study, prior: float) -> AdaptationSpec:
    """Return the study's adaptation with another prior; a bias keeps its share of it."""
    spec = study.adaptation
    share = spec.bias_prior / spec.prior if spec.prior > 0 else 1.0
    return AdaptationSpec(prior=prior, bias_prior=share * prior, max_steps=spec.max_steps)


def _predicted(model: nn.Module, params: Params, part: Part) -> Floats:
    load_params(model, params)
    return predict(model, part.x).numpy()


def _intercept(scores: Floats, part: Part) -> float:
    """Return the shift of the logit that fits the labelled patients best (Janssen et al. 2008).

    Minimises their cross-entropy plus a weak quadratic prior on the shift.
    """
    offset = logit(np.clip(scores[:, 1], 1e-9, 1 - 1e-9))
    sick, weights = part.y.numpy() == 1, part.weights.numpy()

    def loss(shift: float) -> float:
        z = np.where(sick, -(offset + shift), offset + shift)
        return float(weights @ np.logaddexp(0.0, z) + _RECALIBRATION_PRIOR / 2 * shift**2)

    return float(minimize_scalar(loss, bounds=(-_LARGEST_SHIFT, _LARGEST_SHIFT)).x)


def _shifted(scores: Floats, shift: float) -> Floats:
    p = expit(logit(np.clip(scores[:, 1], 1e-9, 1 - 1e-9)) + shift)
    return np.stack([1 - p, p], axis=1)


def _judge(scores: Floats, rest: Part, *, ordinal: bool = False) -> Judged:
    labels, weights = rest.y.numpy(), rest.weights.numpy()
    found = figures(scores, labels, weights, ordinal=ordinal)
    auc, benefit = None, []
    if scores.shape[1] == 2:
        positives = float(weights[labels == 1].sum())
        negatives = float(weights[labels == 0].sum())
        if found.auc is not None:
            auc = auc_estimate(found.auc, positives=positives, negatives=negatives)
        benefit = net_benefit(scores, labels, weights=weights)
    rows = tuple((r["threshold"], r["value"], r["treat_all"]) for r in benefit)
    return Judged(found, auc, rows)


def _tenths(model: nn.Module, params: Params, part: Part) -> list[tuple[float, float, float]]:
    """Return (mean score, observed share, patients) for each tenth of the score in use."""
    scores, weights = _predicted(model, params, part), part.weights.numpy()
    if scores.shape[1] != 2:
        return []
    score, sick = scores[:, 1], part.y.numpy() == 1
    tenth = np.minimum((score * 10).astype(int), 9)
    rows = []
    for number in np.unique(tenth):
        w = weights * (tenth == number)
        rows.append((float(w @ score / w.sum()), float(w @ sick / w.sum()), float(w.sum())))
    return rows


def _last_class(study: Study) -> int:
    return len(study.cohort.label.classes) - 1
