"""A compiled study in plain words: what is computed, what leaves, what each patient spends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from common import effect_review
from common.plan import Plan
from common.privacy import accounting
from common.study import Aggregation, most_liars

_LEARNERS = {
    "reptile": "Reptile",
    "fedavg": "federated averaging",
    "fedprox": "federated averaging with a pull towards the shared weights (FedProx)",
    "fomaml": "first-order MAML",
    "maml": "MAML",
    "fedrep": "FedRep (a shared body under a head that stays)",
    "anil": "ANIL (the head alone, which stays)",
    "prototypical": "Prototypical networks",
    "matching": "Matching networks",
    "siamese": "Siamese networks",
    "triplet": "the triplet loss",
    "hypernetwork": "pFedHN (a hypernetwork at the coordinator)",
    "metanet": "Meta Networks (steps by a learned map)",
    "aligned": "feature alignment",
}


@dataclass(frozen=True)
class Review:
    """What a hospital should know before it approves.

    Attributes:
        computes: Sentences: what happens at the hospital.
        leaves: Sentences: what leaves it.
        stays: Sentences: what does not.
        spends: Sentences: what it costs a patient.
        by_round: (round, epsilon spent by a training patient so far), empty if not private.
    """

    computes: tuple[str, ...]
    leaves: tuple[str, ...]
    stays: tuple[str, ...]
    spends: tuple[str, ...]
    by_round: tuple[tuple[int, float], ...]

    def to_json(self, plan: Plan) -> dict[str, Any]:
        """Return the review, with the plan's numbers, as plain values."""
        return {
            "study": plan.study.name,
            "study_digest": plan.digest,
            "private": plan.private,
            "epsilon": plan.epsilon if plan.private else None,
            "delta": plan.delta if plan.private else None,
            "sigma": plan.sigma,
            "steps": plan.steps,
            "rounds": plan.study.rounds.count,
            "epsilon_by_round": [epsilon for _, epsilon in self.by_round],
            "computes": list(self.computes),
            "leaves": list(self.leaves),
            "stays": list(self.stays),
            "spends": list(self.spends),
        }


def review(plan: Plan) -> Review:
    """Say in plain words what a plan does at a hospital."""
    if plan.study.effect is not None:
        of = effect_review
        return Review(of.computes(plan), of.leaves(plan), of.STAYS, of.spends(plan), ())
    rounds = range(1, plan.study.rounds.count + 1) if plan.private else range(0)
    return Review(
        computes=_computes(plan),
        leaves=_leaves(plan),
        stays=(
            "every patient's record, and every gradient of a single patient",
            "the counts of clamped and missing values, and all errors that depend on patients",
            "the locally adapted model and its figures: they are for the hospital alone",
        ),
        spends=_spends(plan),
        by_round=tuple((r, plan.epsilon_after(r)) for r in rounds),
    )


def _computes(plan: Plan) -> tuple[str, ...]:
    study, learner = plan.study, plan.study.learner
    clip = _clip(plan)
    several, rate = study.cohort.max_records, learner.sampling_rate
    model = "the shared model" if learner.hypernetwork is None else "the weights it is sent"
    records = "one record" if several == 1 else f"at most {several} records"
    sample = (
        "all training patients"
        if rate == 1
        else f"a secret sample that each training patient enters with probability {rate:g}"
    )
    return (
        f"parts its patients by a keyed hash: {study.cohort.train_fraction:.0%} train, the others "
        "evaluate, for the site's whole life",
        f"in each of {study.rounds.count} rounds takes {learner.local_steps} steps of "
        f"{_LEARNERS[learner.name]} on the {study.model.name} model, each on {sample}, with "
        f"{records} of a patient{clip}",
        *_copies(plan),
        *_space(plan),
        *_alignment(plan),
        *_body(plan),
        *_generated(plan),
        *_query(plan),
        f"at the end scores its evaluating patients with {model}, once, and adapts {model} to its "
        "own training patients",
    )


def _clip(plan: Plan) -> str:
    """Say how a patient's gradient is bounded."""
    if not plan.private:
        return ""
    if plan.clipping == "automatic":
        return f", each patient's gradient scaled to a length just below {plan.clip:g}"
    return f", each patient's gradient clipped to {plan.clip:g}"


def _copies(plan: Plan) -> tuple[str, ...]:
    """Say how records are augmented, if they are."""
    spec = plan.study.learner.augmentation
    if spec is None:
        return ()
    ways = ["mirrored at random"] if spec.flip else []
    ways += [f"moved by up to {spec.shift} pixels"] if spec.shift else []
    ways += [f"turned by up to {spec.rotation} degrees"] if spec.rotation else []
    return (
        f"takes each record's gradient as the mean over {spec.copies} copies of it, each "
        f"{' and '.join(ways)}; they are averaged before the clip, so a patient pays no more",
    )


def _space(plan: Plan) -> tuple[str, ...]:
    """Say what is learnt in place of a classifier, and of which problems."""
    metric, task, told = plan.study.learner.metric, plan.study.learner.task, []
    if metric is not None:
        many = "a reference" if metric.references == 1 else f"{metric.references} references"
        noise = ", with noise, from one sum and count a class" if plan.private else ""
        told.append(
            f"learns a space ({metric.loss} loss, {metric.distance.replace('_', ' ')} distance): "
            f"each round begins with {many} of each of its classes{noise}; they stay at the "
            "hospital, and each patient's loss is against them"
        )
    if task is not None:
        kinds = {
            "classes": f"{task.ways} of its classes",
            "one_against_rest": "one of its classes against the rest",
            "pairs": "two of its classes",
            "rotations": "by how many right angles each picture was turned, without labels",
        }
        cases = "" if task.shots is None else f", from {task.shots} cases a class"
        told.append(f"{task.per_round} problem(s) a round, drawn anew: {kinds[task.kind]}{cases}")
    return tuple(told)


def _alignment(plan: Plan) -> tuple[str, ...]:
    """Say what features are drawn to, if they are."""
    spec = plan.study.learner.alignment
    if spec is None:
        return ()
    what = "means" if spec.kind == "mmd" else "means and products"
    sigma = plan.sigma / plan.study.learner.sampling_rate
    noise = (
        f"with Gaussian noise of {sigma:g} times what one patient can add"
        if plan.private
        else "WITHOUT NOISE"
    )
    return (
        f"begins each round with the {what} of its features, {noise}: they leave with the change, "
        "and each step also draws the features towards the hospitals' pooled ones "
        f"({spec.kind}, weight {spec.weight:g})",
    )


def _body(plan: Plan) -> tuple[str, ...]:
    """Say what of the model is not as it usually is."""
    model, told = plan.study.model, []
    if model.standardise_weights:
        told.append("takes the weights of convolutions standardised")
    if model.frozen == "body":
        told.append("trains the last layer alone; the others stay as the coordinator sends them")
    return tuple(told)


def _generated(plan: Plan) -> tuple[str, ...]:
    """Say which weights are made by others, where some are."""
    if plan.study.learner.hypernetwork is not None:
        return (
            "starts each round from, evaluates and receives weights of its own, which the "
            "coordinator's hypernetwork makes of what it learned of the hospital from its changes",
        )
    if plan.study.learner.metanet is not None:
        return (
            "steps as a map says that is learned with the model, from noisy gradients alone; the "
            "map is part of the weights that come and of their change",
        )
    return ()


def _query(plan: Plan) -> tuple[str, ...]:
    """Say what a learner with support and query does beyond its steps."""
    meta, curvature = plan.study.learner.meta, ""
    if meta is None:
        return ()
    if meta.unit == "episode":
        return (
            f"these steps are taken, without noise, in each of {meta.episodes} fixed groups of "
            "patients (episodes), and what an episode says of the weights it started from is "
            "clipped as a whole; the noise is on the sum over episodes",
        )
    who = (
        "on everybody again"
        if meta.pool == "shared"
        else f"on the {meta.query_fraction:.0%} of its training patients who, by a keyed hash, "
        "take no part in the steps"
    )
    if plan.study.learner.name == "maml":
        curvature = (
            ", carried back through the steps by each patient's second derivatives "
            f"(clipped to {meta.curvature_clip:g} times the direction's length, with noise)"
        )
    return (f"then takes one gradient of the adapted model {who}{curvature}",)


def _leaves(plan: Plan) -> tuple[str, ...]:
    study = plan.study
    query = f" ({plan.query_sigma:g} on the query)" if plan.study.learner.has_query else ""
    noise = (
        f"with Gaussian noise of {plan.sigma:g} times the clip on every step{query}"
        if plan.private
        else "WITHOUT NOISE"
    )
    counts = (
        f"with Gaussian noise of standard deviation {plan.evaluation_sigma:g} in every cell"
        if plan.private
        else "WITHOUT NOISE"
    )
    what = "last layer's weights" if study.model.frozen == "body" else "weights"
    histograms = "one histogram" if plan.histograms == 1 else f"{plan.histograms} histograms"
    return (
        "its name and its declared size, a rounded count that it chooses and publishes",
        f"after each round the change of the {what}, {noise}",
        _combined(plan),
        *_averaged(plan),
        f"at the end {histograms} of scores by outcome ({study.evaluation.bins} bins)"
        f"{_by_horizon(plan)}, {counts}",
    )


def _by_horizon(plan: Plan) -> str:
    """Say what the outcome is, of survival."""
    label = plan.study.cohort.label
    if label.horizon is None:
        return ""
    return (
        f", the outcome being {label.classes[1]!r} by {label.column} = {label.horizon:g}; patients "
        "censored before that count nowhere"
    )


def _combined(plan: Plan) -> str:
    """Say what the coordinator makes of the changes of all hospitals."""
    server = plan.study.server
    # FedAvg and FedProx have their server's step in their definition; the others' is open.
    fixed = plan.study.learner.name in ("fedavg", "fedprox")
    is_declared = fixed or server.weights == "declared"
    weighted = "weighted by declared size" if is_declared else "all with the same weight"
    mean = f"takes the mean of all hospitals' changes, {weighted}"
    if plan.study.learner.hypernetwork is not None:
        mean = f"teaches its hypernetwork by all hospitals' changes, {weighted}"
    ways = {
        "mean": mean,
        "median": "takes the median of all hospitals' changes, weight by weight; "
        "declared sizes do not count",
        "trimmed_mean": "leaves out, weight by weight, the smallest and the largest "
        f"{server.liars} of all hospitals' changes and takes the mean of the others; declared "
        "sizes do not count",
        "krum": "takes the one hospital's change that is nearest to most others (Krum); declared "
        "sizes do not count",
    }
    bound = server.norm_bound
    scaled = "" if bound is None else f", after scaling each down to an L2 norm of {bound:g}"
    return f"the coordinator {ways[server.aggregation]}{scaled}"


def _averaged(plan: Plan) -> tuple[str, ...]:
    """Say which weights become the run's model, if not the last round's."""
    server, rounds = plan.study.server, plan.study.rounds.count
    ways = {
        "tail": f"the mean of the weights after rounds {rounds // 2 + 1} to {rounds}",
        "ema": "the mean of the weights after all rounds, each counting "
        f"{server.average_decay:g} times as much as the one after it",
    }
    if server.average == "none":
        return ()
    return (f"the run's model, which is evaluated and delivered, is {ways[server.average]}",)


def bears(plan: Plan, members: int) -> str:
    """Say how many lying hospitals the study's aggregation bears, and the others would.

    Args:
        plan: The compiled study.
        members: How many hospitals take part.

    Returns:
        One sentence, for the coordinator.
    """
    server = plan.study.server
    most = max(0, most_liars(server.aggregation, members))
    borne = server.liars if server.aggregation in ("trimmed_mean", "krum") else most
    others = ", ".join(
        f"{name} {max(0, most_liars(name, members))}" for name in get_args(Aggregation)
    )
    bound = "" if server.norm_bound is None else f", norms bounded by {server.norm_bound:g}"
    return (
        f"aggregation {server.aggregation}{bound}: bears {min(borne, most)} lying of {members} "
        f"hospitals (at most: {others})"
    )


def _spends(plan: Plan) -> tuple[str, ...]:
    if not plan.private:
        return ("this study is NOT PRIVATE: it has no privacy table, and epsilon is infinite",)
    study = plan.study
    training = plan.epsilon_after(study.rounds.count)
    evaluation = accounting.epsilon([plan.evaluation_price()], delta=plan.delta)
    sampled = (
        "; the amplification by sampling holds only while the samples stay secret"
        if any(accounting.is_subsampled(price) for price in plan.training_prices())
        else ""
    )
    return (
        f"a training patient: epsilon {training:.4g} over {plan.steps} steps{sampled}",
        f"an evaluating patient: epsilon {evaluation:.4g} for the histogram",
        f"a patient is one or the other, so each spends at most epsilon {plan.epsilon:.4g} with "
        f"delta {plan.delta:g}",
        f"unit: {accounting.UNIT}; adjacency: {accounting.ADJACENCIES[plan.adjacency]}; "
        f"accountant: {accounting.ACCOUNTANT}; a patient known to two hospitals pays at both",
        f"a hospital may declare at most {int(0.1 / plan.delta)} patients (delta at most "
        f"1/(10 x declared)) and at least {study.cohort.min_declared}",
    )
