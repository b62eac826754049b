"""What each method makes of a new hospital: what a case is to it, and how it learns from few."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError, validate_call
from torch import Tensor

from common.cohort.parts import Part
from common.errors import StudyError
from common.few_shot_spec import OF_WEIGHTS, Baseline, Method
from common.models import Classifier, build, initial_params, load_params
from common.params import Params
from common.plan import Plan
from common.references import within
from common.schema import Table, explain
from common.study import AdaptationSpec, Study
from common.transfer import cases, fine_tuning, heads, spaces
from simulations.fewshot.adapting import InnerSteps, learners_own, with_prior
from simulations.fewshot.describing import coarse, levels, over_shifts, shifts, side_by_side
from simulations.fewshot.episodes import Episode, Judged, judge

_UNFREEZE_EVERY = 10  # steps of 'gradual', where a method does not say


@dataclass(frozen=True)
class Ready:
    """A method at a hospital.

    Attributes:
        space: What each of the hospital's records is to it, (records, ...).
        learn: From labelled cases to the probabilities of queries, both rows of the space.
    """

    space: Tensor
    learn: cases.Method


def ready(method: Method, part: Part, plan: Plan, params: Params) -> Ready:
    """Return a method ready for a hospital's episodes.

    Args:
        method: As the study has it.
        part: All patients of the hospital.
        plan: Of the method's arm; of the study where it has none.
        params: Its weights; the initial ones where it has none.

    Raises:
        StudyError: an option of the method is none.
    """
    learn = _learner(method, plan, params)
    if method.arm is None:
        is_hog, whole = method.use == "logistic_hog", method.use == "scratch"
        space = part.x if whole else spaces.hog(part.x) if is_hog else spaces.pixels(part.x)
        return Ready(space, learn)
    if method.use in OF_WEIGHTS:
        return Ready(part.x, learn)
    model, metric = build(plan.study), plan.study.learner.metric
    load_params(model, params)
    describe = partial(_described, method, model, metric.radius if metric else None)
    if not method.shifted:
        space, widths = describe(part.x)
    else:
        found = [describe(x) for x in shifts(part.x)]
        space, widths = torch.stack([one for one, _ in found], dim=1), found[0][1]
    learn = side_by_side(learn, widths) if method.beside else learn
    return Ready(space, over_shifts(learn) if method.shifted else learn)


def _described(
    method: Method, model: Classifier, radius: float | None, x: Tensor
) -> tuple[Tensor, list[int]]:
    """Return all that a method has of each record, and the width of each description."""
    found = [within(spaces.features(model, x), radius)]
    for name in method.beside:
        found.append(levels(model, x) if name == "levels" else _BESIDE[name](x))
    return torch.cat(found, dim=1), [space.shape[1] for space in found]


_BESIDE = {"hog": spaces.hog, "pixels": spaces.pixels, "coarse": coarse}


def _learner(method: Method, plan: Plan, params: Params) -> cases.Method:
    """Return how a method learns.

    Raises:
        StudyError: an option is none of its use's.
    """
    given: dict[str, Any] = dict(method.options)
    kind = method.use.partition("_")[0] if method.arm is None else method.use
    try:
        return _LEARNERS[kind](plan, params, given)
    except ValidationError as error:
        raise explain(error, f"method {method.name!r} of simulation.fewshot, options") from None


def _prototypes(plan: Plan, params: Params, given: dict[str, Any]) -> cases.Method:
    metric = plan.study.learner.metric
    usual = {"distance": metric.distance} if metric else {}
    return validate_call(heads.prototypes)(**(usual | given))


def _nearest(plan: Plan, params: Params, given: dict[str, Any]) -> cases.Method:
    Table.model_validate(given)  # it has no options
    return heads.nearest


def _gradual(plan: Plan, params: Params, given: dict[str, Any]) -> cases.Method:
    return _fine_tuned(plan, params, {"unfreeze_every": _UNFREEZE_EVERY, **given})


def _fine_tuned(plan: Plan, params: Params, given: dict[str, Any]) -> cases.Method:
    model = build(plan.study)
    load_params(model, params)
    return fine_tuning.fine_tuned(model, fine_tuning.FineTuning(**given))


def _scratch(plan: Plan, params: Params, given: dict[str, Any]) -> cases.Method:
    study, how = plan.study, fine_tuning.FineTuning(**given)
    return fine_tuning.from_scratch(study.model, study.cohort.input_shape, how)


def _with_prior(plan: Plan, params: Params, given: dict[str, Any]) -> cases.Method:
    spec = AdaptationSpec.model_validate(plan.study.adaptation.model_dump() | given)
    return with_prior(plan, params, spec)


_LEARNERS: Mapping[str, Callable[[Plan, Params, dict[str, Any]], cases.Method]] = {
    "prototype": _prototypes,
    "nearest": _nearest,
    "logistic": lambda plan, params, given: validate_call(heads.regression)(**given),
    "svm": lambda plan, params, given: validate_call(heads.machine)(**given),
    "fine_tune": _fine_tuned,
    "gradual": _gradual,
    "adapt": lambda plan, params, given: learners_own(plan, params, InnerSteps(**given)),
    "prior": _with_prior,
    "scratch": _scratch,
}


def judged_by(method: Ready, episode: Episode) -> Judged:
    """Let a method learn from an episode's labelled cases, and judge it by the queries."""
    space = method.space
    found = method.learn(episode.cases(space), space[episode.queries], episode.seed)
    return judge(found, episode)


def baselines(study: Study) -> tuple[Baseline, ...]:
    """Return those that are always in the table: simple features are hard to beat."""
    return ("logistic_pixels", "logistic_hog") if _has_pictures(study) else ("logistic_inputs",)


def default_methods(study: Study) -> tuple[Method, ...]:
    """Return what a study without methods is asked: its own learner, used in a few ways."""
    is_head = study.model.name == "logistic"
    uses = ("prior", "adapt") if is_head else ("prototype", "logistic", "adapt")
    named = ("scratch", *(f"{study.learner.name}+{use}" for use in uses))
    return tuple(Method.model_validate(name) for name in named)


def check_method(method: Method, study: Study, plan: Plan) -> None:
    """Refuse a method that does not go with the study, before anything is trained.

    Args:
        method: The method.
        study: Its inputs and classes.
        plan: Of the method's arm.

    Raises:
        StudyError: it is for other inputs or classes, or has options that are none.
    """
    of_pictures = (
        bool(method.beside)
        or method.shifted
        or method.use in ("logistic_hog", "logistic_pixels", "nearest_pixels")
    )
    wrong = None
    if of_pictures and not _has_pictures(study):
        wrong = "is for pictures, and the study has a table", "logistic_inputs or nearest_inputs"
    elif method.use.endswith("_inputs") and _has_pictures(study):
        wrong = "is for tables, and the study has pictures", "logistic_pixels or nearest_pixels"
    elif method.use == "prior" and study.cohort.label.own:
        wrong = (
            "keeps the shared last layer, whose classes are other hospitals' (cohort.label.own)",
            "adapt, fine_tune or prototype",
        )
    if wrong is not None:
        raise StudyError(
            f"method {method.name!r} of simulation.fewshot.methods {wrong[0]}",
            remedy=f"use {wrong[1]}",
        )
    start = initial_params(plan.study, seed=0)
    if method.arm is None or method.use in OF_WEIGHTS:
        _learner(method, plan, start)
        return
    nobody = torch.zeros(0, dtype=torch.int64)
    blank = Part(torch.zeros(1, *study.cohort.input_shape), nobody, nobody, 0)
    ready(method, blank, plan, start)  # whatever it lacks it says now, of a blank record


def _has_pictures(study: Study) -> bool:
    return study.cohort.image is not None and not study.cohort.image.maps
