"""Rules of a study that only make sense together, looked at before its noise is fixed."""

from __future__ import annotations

import itertools

from common.errors import StudyError
from common.generator_spec import GENERATORS, MOST_HELD
from common.study import Study, most_liars


def check_rules(study: Study) -> None:
    """Refuse a study whose tables do not go together.

    Raises:
        StudyError: the quorum cannot bear the liars, what is to be augmented is no picture, a space
            or a head has nothing to learn, or a patient's part in something has no bound.
    """
    for check in _CHECKS:
        check(study)


def _check_liars(study: Study) -> None:
    """Refuse an aggregation that the smallest round which counts could not carry out."""
    server, quorum = study.server, study.rounds.quorum
    if server.liars <= most_liars(server.aggregation, quorum):
        return
    if server.aggregation == "mean":
        raise StudyError(
            f"server.liars is {server.liars}, and server.aggregation is 'mean', which bears none",
            remedy="choose median, trimmed_mean or krum, or leave server.liars out",
        )
    needed = next(
        n for n in itertools.count(quorum) if most_liars(server.aggregation, n) >= server.liars
    )
    raise StudyError(
        f"server.liars is {server.liars}: {server.aggregation!r} needs {needed} hospitals in "
        f"every round to bear that many, and rounds.quorum is {quorum}",
        remedy=f"raise rounds.quorum to {needed}, lower server.liars, or choose another "
        "server.aggregation",
    )


def _check_augmentation(study: Study) -> None:
    """Refuse to mirror or move what has no left and right."""
    image = study.cohort.image
    if study.learner.augmentation is None or (image is not None and not image.maps):
        return
    what = "a table" if image is None else "fixed maps of images (cohort.image.maps), not pictures"
    raise StudyError(
        f"learner.augmentation is given, and the model's inputs are {what}",
        remedy="leave learner.augmentation out, or train on the images themselves",
    )


def _check_metric(study: Study) -> None:
    """Refuse a space or problems of which one patient's part could not be bounded."""
    metric, task, image = study.learner.metric, study.learner.task, study.cohort.image
    if metric is not None and study.model.frozen is not None:
        raise StudyError(
            f"learner.metric is given and model.frozen is {study.model.frozen!r}: the references "
            "stay and the body does not move, so nothing would be learnt",
            remedy="leave model.frozen or learner.metric out",
        )
    if task is not None and task.kind == "rotations" and (image is None or image.maps):
        raise StudyError(
            "learner.task.kind is 'rotations', and the model's inputs are no pictures",
            remedy="choose another kind, or train on the images themselves",
        )
    if task is not None and task.kind == "rotations" and len(study.cohort.label.classes) < 4:
        raise StudyError(
            f"learner.task.kind is 'rotations', which has 4 classes, and the model has "
            f"{len(study.cohort.label.classes)} outputs",
            remedy="use label.own = true with label.ways of at least 4",
        )
    if study.privacy is None:
        return
    if metric is not None and metric.radius is None:
        raise StudyError(
            "learner.metric.radius is not given, and the study is private: without it a patient's "
            "part in a reference has no bound",
            remedy="give learner.metric.radius, such as 1.0, or leave [privacy] out",
        )
    if task is not None and task.shots is not None:
        raise StudyError(
            f"learner.task.shots is {task.shots}, and the study is private: who else is in an "
            "episode of so many cases a class depends on every patient",
            remedy="leave learner.task.shots out (all patients take part), or [privacy]",
        )


def _check_alignment(study: Study) -> None:
    """Refuse to align features that there are none of, or that do not move."""
    model, server = study.model, study.server
    if study.learner.alignment is None:
        return
    wrong = None
    if model.name == "logistic" or (model.name == "mlp" and not model.hidden):
        wrong = f"model.name is {model.name!r}, whose last layer is all of it", "model"
    elif model.frozen is not None:
        wrong = f"model.frozen is {model.frozen!r}, so that features do not move", "model.frozen"
    elif server.norm_bound is not None:
        wrong = (
            f"server.norm_bound is {server.norm_bound:g}, which the moments would use up",
            "server.norm_bound",
        )
    if wrong is not None:
        raise StudyError(
            f"learner.name is 'aligned' and {wrong[0]}",
            remedy="choose an mlp with hidden layers, conv4 or resnet18, or another learner"
            if wrong[1] == "model"
            else f"leave {wrong[1]} out, or choose another learner",
        )


def _check_generator(study: Study) -> None:
    """Refuse what weights of each hospital's own cannot have, and a model too large for them."""
    server, spec = study.server, study.learner.hypernetwork
    if study.learner.name not in GENERATORS:
        return
    from common.models import shapes_of, trained  # torch, which few studies need here

    weights = sum(v.numel() for v in trained(study, shapes_of(study)).values())
    if spec is None:
        return  # the map of metanet refuses a model too large for it when it is made
    if server.aggregation != "mean":
        raise StudyError(
            f"server.aggregation is {server.aggregation!r} and learner.name is 'hypernetwork': "
            "each hospital's change is of weights of its own, which no other's can outvote",
            remedy="use server.aggregation = 'mean', with server.norm_bound against large lies",
        )
    if server.average != "none":
        raise StudyError(
            f"server.average is {server.average!r} and learner.name is 'hypernetwork': the mean is "
            "of weights that all share, and each hospital has its own",
            remedy="leave server.average out, or choose another learner",
        )
    held = weights * spec.hidden[-1]
    if held > MOST_HELD:
        raise StudyError(
            f"learner.hypernetwork.hidden ends in {spec.hidden[-1]} and the model trains "
            f"{weights:,} weights: the hypernetwork would have {held:,}, above {MOST_HELD:,}",
            remedy="lower the last of learner.hypernetwork.hidden, freeze the body (model.frozen = "
            "'body'), or use a smaller model",
        )


def _check_head(study: Study) -> None:
    """Refuse a head that stays where no body under it is shared."""
    if study.learner.name not in ("fedrep", "anil"):
        return
    model = study.model
    if model.name == "logistic" or (model.name == "mlp" and not model.hidden):
        raise StudyError(
            f"learner.name is {study.learner.name!r} and model.name is {model.name!r}, whose last "
            "layer is all of it: nothing would be shared under a head that stays",
            remedy="choose an mlp with hidden layers, conv4 or resnet18, or another learner",
        )
    if model.frozen is not None:
        raise StudyError(
            f"learner.name is {study.learner.name!r} and model.frozen is {model.frozen!r}: the "
            "head stays and the body does not move, so nothing would be shared",
            remedy="leave model.frozen out, or choose another learner",
        )


_CHECKS = (
    _check_liars,
    _check_augmentation,
    _check_metric,
    _check_alignment,
    _check_generator,
    _check_head,
)
