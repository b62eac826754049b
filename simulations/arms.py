"""The arms of a comparison: what each is, and what it makes of a hospital's patients.

All arms see the same splits. The figures here are exact: they need every hospital's patients in one
place, which only a simulation has, and would not leave a hospital.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from common.cohort.parts import Cohort, Part, join
from common.learners import learner_for
from common.learners.adaptation import adapt_locally
from common.learners.types import Contribution, Patients
from common.metrics import Figures, figures, mean_auc
from common.models import build, load_params, predict
from common.params import Params
from common.plan import Plan, compile_study
from common.privacy.engine import PrivateModel
from common.privacy.noise import SeededSource
from common.scenario import FEDERATED, Arm
from common.seeds import derive
from common.study import Study, parse_study

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
    "anil": "ANIL: local steps of the head alone, which stays; the query moves the shared body",
}


@dataclass(frozen=True)
class Result:
    """An arm's exact figures at one hospital: the shared model, and after local adaptation."""

    shared: Figures
    adapted: Figures


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


def evaluate(model: nn.Module, params: Params, part: Part, *, ordinal: bool = False) -> Figures:
    """Return the exact figures of a model on one part, every patient of unit mass."""
    load_params(model, params)
    scores = predict(model, part.x).numpy()
    return figures(scores, part.y.numpy(), part.weights.numpy(), ordinal=ordinal)


def auc_of(model: nn.Module, params: Params, part: Part) -> float | None:
    """Return the exact AUC alone, for a point of a learning curve."""
    load_params(model, params)
    return mean_auc(predict(model, part.x).numpy(), part.y.numpy(), part.weights.numpy())


def shared_and_adapted(
    plan: Plan, params_of: Callable[[str], Params], cohorts: Mapping[str, Cohort]
) -> dict[str, Result]:
    """Evaluate a hospital's weights at every hospital, as they are and after local adaptation."""
    model = build(plan.study)
    spec = plan.study.adaptation
    results = {}
    for name, cohort in cohorts.items():
        params = params_of(name)
        adapted = adapt_locally(model, params, cohort.train, spec)
        results[name] = Result(
            shared=evaluate(model, params, cohort.holdout),
            adapted=evaluate(model, adapted, cohort.holdout),
        )
    return results


def majority(cohorts: Mapping[str, Cohort], *, classes: int) -> dict[str, Result]:
    """Give every patient the rate of each class among the hospital's training patients."""
    results = {}
    for name, cohort in cohorts.items():
        mass = np.bincount(
            cohort.train.y.numpy(), weights=cohort.train.weights.numpy(), minlength=classes
        )
        scores = np.tile(mass / mass.sum(), (len(cohort.holdout.y), 1))
        found = figures(scores, cohort.holdout.y.numpy(), cohort.holdout.weights.numpy())
        results[name] = Result(shared=found, adapted=found)
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
            params = _train_alone(
                plan,
                initial,
                Patients(cohort.train, cohort.declared),
                seed=derive(seed, "local", name),
            )
        else:
            params = adapt_locally(model, initial, cohort.train, plan.study.adaptation)
        found = evaluate(model, params, cohort.holdout)
        results[name] = Result(shared=found, adapted=found)
    return results


def pooled(plan: Plan, initial: Params, cohorts: Mapping[str, Cohort], *, seed: int) -> Params:
    """Train one model on everybody's training patients in one place."""
    everybody = join([c.train for c in cohorts.values()])
    declared = sum(c.declared for c in cohorts.values())
    if plan.private:
        return _train_alone(
            plan, initial, Patients(everybody, declared), seed=derive(seed, "pooled")
        )
    return adapt_locally(build(plan.study), initial, everybody, plan.study.adaptation)


def _train_alone(plan: Plan, initial: Params, patients: Patients, *, seed: int) -> Params:
    """Run the plan's private steps over a federation of one."""
    learner, model = learner_for(plan), PrivateModel(build(plan.study))
    source = SeededSource(seed)
    state = learner.init(initial)
    for _ in range(plan.study.rounds.count):
        delta = learner.adapt(model, state.params, patients, source)
        state = learner.apply(state, [Contribution(patients.declared, delta)])
    return state.model
