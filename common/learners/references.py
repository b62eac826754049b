"""A learner's steps under references of the classes: a learned space in place of a linear head."""

from __future__ import annotations

import torch

from common.cohort.parts import Part
from common.learners.inner import draw, noise_scale
from common.learners.tasks import support_and_query
from common.learners.types import Learner, Patients
from common.models import Classifier, features, load_params, shapes_of
from common.params import Params, head_of, only, subtract
from common.plan import Plan
from common.privacy.class_sums import class_sums, count_weight, sensitivity
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source, with_noise
from common.references import ABSENT, References, within


def in_space(plan: Plan, learner: Learner) -> Learner:
    """Return the learner with a round that begins by saying where the hospital's classes lie.

    The references are then the model's last layer: they stay at the hospital, are not trained, and
    the learner's own steps (of Reptile, of FOMAML, of any that takes gradients of patients) move
    the body under them. So a metric space trained by Reptile or by MAML is those very learners.

    Guarantees
        One patient's loss against references that were released before is a function of that
        patient: pairs, triplets and prototypes need no second patient, and a step is the plain
        clipped, noised step that the learner has without references. What a round costs beside its
        steps is one Poisson-subsampled Gaussian of multiplier sigma, on the patients of the inner
        steps, for the references (`common.privacy.class_sums`). They are kept from round to round
        only for evaluation, and are then the outcome of mechanisms that are paid for.
        Gradients do not flow from a query through the references into other patients, as they do in
        the papers' episodes (`common.learners.episodes`): that is what makes a patient's part
        bounded. Episodes make references of their own, so that there the hospital's are needed for
        evaluation alone, and made in the last round.
    """
    is_episodic, references = plan.study.learner.is_episodic, head_of(shapes_of(plan.study))

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        if is_episodic and not patients.last:
            return learner.adapt(model, theta, patients, source)
        head = released(plan, model, theta, patients, source)
        delta = learner.adapt(model, {**theta, **head}, patients, source)
        return {**delta, **subtract(head, only(theta, head))}

    def stays(params: Params) -> frozenset[str]:
        return references & params.keys()

    return Learner(learner.name, learner.init, adapt, learner.apply, stays)


def released(
    plan: Plan, model: PrivateModel, theta: Params, patients: Patients, source: Source
) -> Params:
    """Return references of a hospital's classes, as the last layer's weights, from one noisy sum.

    A class or slot whose noisy count is below one patient has the mean of all others for its
    reference, or the origin: that a class has few patients is not to be told.
    """
    metric, meta = plan.study.learner.metric, plan.study.learner.meta
    assert metric is not None  # or there are no references
    part = patients.train if meta is None else support_and_query(patients.train, meta)[0]
    batch = draw(plan, part, source)
    weight = 1.0 if metric.radius is None else count_weight(metric.radius)
    name, *_ = sorted(head_of(theta), reverse=True)  # '...weight' before '...bias'
    like = theta[name]
    classes, slots, _ = like.shape
    sums = model.class_sums(theta, batch, classes=classes, slots=slots, radius=metric.radius)
    bound = None if metric.radius is None else sensitivity(metric.radius)
    sums = with_noise(sums, source, scale=noise_scale(plan, plan.sigma, clip=bound))
    return as_head(sums, theta, weight=weight, classes=patients.classes)


def exact(model: Classifier, theta: Params, part: Part) -> Params:
    """Return references of a part's classes without noise: for the hospital's own use alone."""
    like = theta[max(head_of(theta))]
    load_params(model, theta)
    places = within(features(model, part.x), radius_of(model))
    sums = class_sums(places, part, classes=like.shape[0], slots=like.shape[1], weight=1.0)
    present = sums["counts"].sum(1) > 0
    return as_head(sums, theta, weight=1.0, present=present)


def radius_of(model: Classifier) -> float | None:
    """Return how far from the origin the places of a model's space lie at most.

    Raises:
        TypeError: the model's last layer is no references.
    """
    last = next((m for m in model.modules() if isinstance(m, References)), None)
    if last is None:
        raise TypeError("the model's last layer is a linear map, and no references of classes")
    return last.spec.radius


def as_head(
    sums: Params,
    theta: Params,
    *,
    weight: float,
    classes: int | None = None,
    present: torch.Tensor | None = None,
) -> Params:
    """Return sums and counts as the last layer's weights.

    Args:
        sums: As `common.privacy.class_sums` gives them, with or without noise.
        theta: Of the model, for names, shapes and types.
        weight: What a patient's count was multiplied by.
        classes: How many the hospital names; all others are never the answer.
        present: Or which ones it has, (classes,), bool.
    """
    counts = sums["counts"] / weight
    known = counts >= 1.0
    means = sums["sums"] / counts.clamp(min=1.0)[..., None]
    if bool(known.any()):
        means = torch.where(known[..., None], means, means[known].mean(0))
    else:
        means = torch.zeros_like(means)
    if present is None:
        present = torch.arange(len(counts)) < (len(counts) if classes is None else classes)
    bias = torch.where(present, 0.0, ABSENT)
    weights, biases = sorted(head_of(theta), reverse=True)
    return {weights: means.to(theta[weights]), biases: bias.to(theta[biases])}
