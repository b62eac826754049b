"""The arms of a comparison: what each is, and what it makes of a hospital's patients.

All arms see the same splits. The figures here are exact: they need every hospital's patients in one
place, which only a simulation has, and would not leave a hospital.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from common.cohort.parts import Cohort, Part, join
from common.cohort.schema import Label
from common.judging import exact_auc, judge, outcomes
from common.learners import learner_for
from common.learners.adaptation import adapt_locally
from common.learners.types import Contribution, Patients
from common.metrics import Figures
from common.models import build, load_params, objective_of, predict
from common.params import Params
from common.plan import Plan, compile_study
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.scenario import FEDERATED, Arm
from common.seeds import derive
from common.study import Study, parse_study

Floats = NDArray[np.float64]

NOTES = {
    "majority": "each hospital's own rate of the outcome, for every patient",
    "local": "each hospital alone, regularised",
    "pooled": "all patients in one place, which is what nobody may do",
    "fedavg": "federated averaging: Reptile with a server step of 1 and weights by declared size",
    "fedprox": "federated averaging with a pull towards the shared weights",
    "reptile": "Reptile over hospitals, by the study's server step and weights",
    "fomaml": "first-order MAML over hospitals: the gradient of query patients after local steps",
    "maml": "MAML over hospitals: the same, carried back through the local steps",
    "fedrep": "FedRep: a shared body, and a head that stays at each hospital",
    "prototypical": "Prototypical networks: a space in which a case lies near its class's mean",
    "matching": "Matching networks: a space in which a case attends to cases of its class",
    "siamese": "Siamese networks: the contrastive loss in a space",
    "triplet": "the triplet loss in a space",
    "anil": "ANIL: local steps of the head alone, which stays; the query moves the shared body",
    "hypernetwork": "a hypernetwork at the server: each hospital is sent weights of its own",
    "metanet": "Meta Networks: local steps by a learned map, which the query moves with the model",
    "aligned": "FedAvg-like steps that also draw features together (MMD or deep CORAL)",
}


@dataclass(frozen=True)
class Result:
    """An arm's exact figures at one hospital: the shared model, and after local adaptation.

    Attributes:
        risks: Of survival, what hospitals are ranked together by.
    """

    shared: Figures
    adapted: Figures
    risks: Risks | None = None


@dataclass(frozen=True)
class Risks:
    """The holdout patients of one hospital and their risks.

    Attributes:
        codes: (records,) as `common.survival.encode`.
        weights: (records,) mass of each.
        shared: (records,) by the shared model.
        adapted: (records,) after local adaptation.
    """

    codes: NDArray[np.int64]
    weights: Floats
    shared: Floats
    adapted: Floats


def plan_of(study: Study, arm: Arm) -> Plan:
    """Return the arm's own compiled study: its learner, private or not.

    Raises:
        StudyError: the target epsilon cannot be met, or a rule of the arm's own is none.
    """
    changes: dict[str, object] = {} if arm.follows_privacy else {"privacy": None}
    if arm.kind in FEDERATED:
        changes["learner"] = study.learner.named(arm.kind, proximal=arm.proximal or 0.0)
    changed = study.model_copy(update=changes)
    if not arm.rules:
        return compile_study(changed)
    values = changed.model_dump(mode="json")
    for table, rules in arm.rules.items():
        values[table] = {**(values[table] or {}), **rules}
    return compile_study(parse_study(values, origin=f"arm {arm.kind!r}, rules"))


def _scores(model: nn.Module, params: Params, part: Part) -> Floats:
    """Return the probabilities that weights give a part's records, (records, classes)."""
    load_params(model, params)
    scores: Floats = predict(model, part.x).numpy()
    return scores


def _judged(
    shared: Floats, adapted: Floats, part: Part, label: Label, *, ranked: bool = False
) -> Result:
    """Return the exact figures of an arm's scores on one part, every patient of unit mass."""
    risks = None
    if label.event is not None:
        codes, weights = part.y.numpy(), part.weights.numpy()
        risks = Risks(codes, weights, shared[:, 1], adapted[:, 1])
    found = [judge(scores, part, label, ranked=ranked) for scores in (shared, adapted)]
    return Result(found[0], found[1], risks)


def auc_of(model: nn.Module, params: Params, part: Part, label: Label) -> float | None:
    """Return the exact AUC alone, for a point of a learning curve."""
    return exact_auc(_scores(model, params, part), part, label)


def shared_and_adapted(
    plan: Plan, params_of: Callable[[str], Params], cohorts: Mapping[str, Cohort]
) -> dict[str, Result]:
    """Evaluate a hospital's weights at every hospital, as they are and after local adaptation."""
    model, spec = build(plan.study), plan.study.adaptation
    results = {}
    for name, cohort in cohorts.items():
        params = params_of(name)
        adapted = adapt_locally(model, params, cohort.train, spec)
        results[name] = _judged(
            _scores(model, params, cohort.holdout),
            _scores(model, adapted, cohort.holdout),
            cohort.holdout,
            plan.study.cohort.label,
            ranked=_ranks(model),
        )
    return results


def _ranks(model: nn.Module) -> bool:
    """Whether a model's scores only rank."""
    return objective_of(model).whole_batch


def majority(cohorts: Mapping[str, Cohort], label: Label) -> dict[str, Result]:
    """Give every patient the rate of each class among the hospital's training patients."""
    results = {}
    for name, cohort in cohorts.items():
        y, weights, part = outcomes(cohort.train, label), cohort.train.weights, cohort.holdout
        mass = np.array([weights.numpy()[y == c].sum() for c in range(len(label.classes))])
        share = mass / mass.sum() if mass.any() else np.full(len(mass), 1 / len(mass))
        scores = np.tile(share, (len(part.y), 1))
        results[name] = _judged(scores, scores, part, label)
    return results


def local(
    plan: Plan, initial: Params, cohorts: Mapping[str, Cohort], *, seed: int
) -> dict[str, Result]:
    """Train each hospital alone, on the prior of the study's local adaptation around its start.

    A logistic model starts at zero, which makes this ridge regression. Where the arm is private it
    takes the study's private steps on the hospital's own patients instead. It is already local:
    its adapted figures are the same.
    """
    model = build(plan.study)
    results = {}
    for name, cohort in cohorts.items():
        if plan.private:
            params = train_alone(
                plan,
                initial,
                Patients(cohort.train, cohort.declared, cohort.classes),
                seed=derive(seed, "local", name),
            )
        else:
            params = adapt_locally(model, initial, cohort.train, plan.study.adaptation)
        scores = _scores(model, params, cohort.holdout)
        label = plan.study.cohort.label
        results[name] = _judged(scores, scores, cohort.holdout, label, ranked=_ranks(model))
    return results


def pooled(plan: Plan, initial: Params, cohorts: Mapping[str, Cohort], *, seed: int) -> Params:
    """Train one model on everybody's training patients in one place."""
    everybody = join([c.train for c in cohorts.values()])
    declared = sum(c.declared for c in cohorts.values())
    if plan.private:
        return train_alone(
            plan, initial, Patients(everybody, declared), seed=derive(seed, "pooled")
        )
    return adapt_locally(build(plan.study), initial, everybody, plan.study.adaptation)


def train_alone(plan: Plan, initial: Params, patients: Patients, *, seed: int) -> Params:
    """Run the plan's private steps over a federation of one."""
    learner, model = learner_for(plan), PrivateModel(build(plan.study))
    source = SeededSource(seed)
    state = learner.init(initial)
    for _ in range(plan.study.rounds.count):
        delta = learner.adapt(model, state.params, patients, source)
        state = learner.apply(state, [Contribution(patients.declared, delta)])
    return state.model
