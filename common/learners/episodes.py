"""The papers' episodes: a metric judged on queries by references made of a few shots.

Gradients flow through the references into the shots, so the cases of an episode are coupled and no
patient's part is bounded: this is what the metric learners are without privacy. With it, references
are released first (`common.learners.references`), or whole fixed episodes are clipped (`maml`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from common.learner_spec import LearnerSpec
from common.learners.inner import stepper
from common.learners.problems import problems
from common.learners.types import Adapt, Patients
from common.metric_spec import MetricSpec
from common.models import Classifier
from common.objectives import of_metric
from common.params import Params, only, subtract, weighted_sum
from common.plan import Plan
from common.privacy.augmentation import expanded, with_views
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source
from common.references import References, within

InEpisode = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(places of shots, their classes, places of queries, their classes) -> loss."""


def episode_steps(plan: Plan) -> Adapt:
    """Return the function that adapts the shared body by K steps, each on episodes drawn anew.

    Raises:
        DataError: in use, where the hospital has no two classes with enough cases.
    """
    spec = plan.study.learner
    task, metric = spec.task, spec.metric
    assert task is not None  # both as LearnerSpec.is_episodic has it
    assert metric is not None
    loss = loss_in_episode(metric)

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        move, phi = stepper(spec), theta
        for _ in range(spec.local_steps):
            drawn = [_altered(one, spec, source) for one in problems(plan, task, patients, source)]
            found = [_gradient(model, phi, episode, metric, loss) for episode in drawn]
            phi = move(phi, weighted_sum([(1 / len(found), g) for g in found]), 1.0)
        return only(subtract(phi, theta), model.trained)

    return adapt


def _altered(episode: Patients, spec: LearnerSpec, source: Source) -> Patients:
    """Return the episode with each picture altered once, where the study augments pictures."""
    if spec.augmentation is None:
        return episode
    once = spec.augmentation.model_copy(update={"copies": 1})
    return episode._replace(train=expanded(with_views(episode.train, once, source)))


def _gradient(
    model: PrivateModel, phi: Params, episode: Patients, metric: MetricSpec, loss: InEpisode
) -> Params:
    """Return the gradient of an episode's loss, of the weights that are trained."""
    part = episode.train
    assert part.draws is not None  # they tell queries from shots
    is_shot = part.draws[:, 0] > 0.5

    def judged(net: nn.Module) -> Tensor:
        device = next(net.parameters()).device
        places = within(cast(Classifier, net).features(part.x.to(device)), metric.radius)
        y = part.y.to(device)
        return loss(places[is_shot], y[is_shot], places[~is_shot], y[~is_shot])

    return model.gradient_of(phi, judged)


def loss_in_episode(metric: MetricSpec) -> InEpisode:
    """Return what a metric's paper minimises over one episode.

    'prototypical'  cross-entropy of queries against the means of the shots (Snell et al. 2017)
    'matching'      the same by attention over every shot (Vinyals et al. 2016, equation 1)
    'contrastive'   over all pairs of shots and queries
    'triplet'       over all triplets with a semi-hard negative

    The last two are pytorch-metric-learning's, but for the contrastive loss's squares.
    """
    if metric.loss in ("contrastive", "triplet"):
        return _of_pairs(metric)
    objective = of_metric(metric)

    def loss(shots: Tensor, y: Tensor, queries: Tensor, asked: Tensor) -> Tensor:
        classes = int(y.max()) + 1
        by_class = torch.stack([shots[y == c] for c in range(classes)])
        references = by_class.mean(1, keepdim=True) if metric.loss == "prototypical" else by_class
        head = References(shots.shape[1], classes, metric)
        scores = head.scores(queries, references, head.bias)
        return objective.losses(scores, asked).mean()

    return loss


def _of_pairs(metric: MetricSpec) -> InEpisode:
    from common.metric_losses import contrastive_pairs, semi_hard_triplets

    made = contrastive_pairs if metric.loss == "contrastive" else semi_hard_triplets

    def loss(shots: Tensor, y: Tensor, queries: Tensor, asked: Tensor) -> Tensor:
        return made(metric)(torch.cat([shots, queries]), torch.cat([y, asked]))

    return loss
