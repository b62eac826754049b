"""Feature alignment: hospitals' features drawn towards one distribution beside the task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from common import alignment
from common.learners.inner import draw, noise_scale, noisy_sum, stepper
from common.learners.outer import mean_delta, server_step
from common.learners.types import Contribution, Learner, Patients, State
from common.params import Params, add, only, scale, subtract
from common.plan import Plan
from common.privacy.engine import PrivateModel, RecordLoss
from common.privacy.moments import sensitivity
from common.privacy.noise import Source, with_noise


def aligned(plan: Plan) -> Learner:
    """L = L_task + lambda L_transfer over hospitals, by MMD or deep CORAL, private by patient.

    The papers (Long et al. 2015 for MMD; Sun and Saenko 2016 for deep CORAL) compare a batch of one
    domain with a batch of another, which no hospital has. Here a round is

    1.  Own moments. With z_r the features of record r under the shared weights theta and
        e(z_r) what stands for them (`common.alignment`), the hospital releases

            M = (sum_j u_j + N(0, (sigma / q)^2 C_u^2 I)) / n,   u_j = mean over r of (e, e e^T / R)

        over all training patients j, with n the declared size times the train fraction: the change
        that the weights 'alignment.*' must make to be M is part of the delta, the server's mean of
        the hospitals' is the pooled moments, and all hospitals get these with the next weights.
    2.  K steps as `common.learners.inner`, on L_task(x, y) + lambda part(z(x)), where part is one
        record's part in the distance from the moments of 1 to the pooled ones
        (`common.alignment.record_part`). In a first round none are pooled, and lambda is 0.

    The pooled moments were taken one round ago, of weights one round older: a target that stands
    still while a hospital steps, as in the papers it would move with every batch. At theta the mean
    of the records' gradients is that of the whole distance, the target held (without noise and
    clipping; tested). The hospital's own moments are those at theta during all K steps.

    Guarantees
        M is one Gaussian mechanism on all training patients: one patient moves the sum of the u_j
        by at most C_u (`common.privacy.moments`: R sqrt(2) for coral, R for linear mmd, 1 for the
        random features, whose norm it is), so its noise multiplier is sigma / q. Given M and the
        pooled moments, which were released before, the loss of a patient is a function of that
        patient alone. His gradient of both terms is clipped as one, and every step is the
        Poisson-subsampled Gaussian of multiplier sigma that it is in `common.learners.inner`.
        Everything that leaves is post-processing of the two. Price of a round: one Gaussian of
        multiplier sigma / q and K Poisson-subsampled ones of (q, sigma), adaptively composed.

        Why sigma / q: the noise on M's mean is then sigma C_u / (q n), as many bounds as a step's
        sigma C / (q n) is clips; at q = 1 both multipliers are sigma. Without a privacy table there
        is no noise, and the price is infinite.
    """
    learner, spec = plan.study.learner, plan.study.learner.alignment
    assert spec is not None  # LearnerSpec fills it in
    move_weights = server_step(plan.study.server)

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        own, everybody = own_moments(plan, model, theta, patients, source), alignment.pooled(theta)
        share, move = 1 / plan.denominator(patients.declared), stepper(learner)
        start = {k: v for k, v in theta.items() if k not in own}
        part, phi = None, start
        if everybody is not None:
            part = alignment.record_part(spec, own, everybody)
        for _ in range(learner.local_steps):
            batch = draw(plan, patients.train, source)
            if part is None:
                total = noisy_sum(plan, model, phi, batch, source)
            else:
                loss = _both(model, phi, part, weight=spec.weight)
                at = only(phi, model.trained)
                total = model.clipped_sum_of(loss, at, batch, clip=plan.clip, rule=plan.clipping)
                total = with_noise(total, source, scale=noise_scale(plan, plan.sigma))
            phi = move(phi, total, share)
        return {**subtract(own, only(theta, own)), **only(subtract(phi, start), model.trained)}

    def apply(state: State, contributions: Sequence[Contribution]) -> State:
        """Move the weights by the study's server step, and the pooled moments to the mean."""
        names = alignment_names(state.params)
        weights = [
            c._replace(delta={k: v for k, v in c.delta.items() if k not in names})
            for c in contributions
        ]
        moments = [c._replace(delta=only(c.delta, names)) for c in contributions]
        after = move_weights(state, weights)
        pooled = mean_delta(moments, weights=plan.study.server.weights)
        return State(add(after.params, pooled), after.moments, after.round)

    return Learner(name="aligned", init=State, adapt=adapt, apply=apply)


def alignment_names(params: Params) -> list[str]:
    """Return the names of the pooled moments among a study's weights."""
    return [name for name in params if name.startswith("alignment.")]


def own_moments(
    plan: Plan, model: PrivateModel, theta: Params, patients: Patients, source: Source
) -> Params:
    """Return a hospital's own moments under theta, with noise, as 'alignment.*'.

    The weight that they are pooled with is 1, a constant.
    """
    spec = plan.study.learner.alignment
    assert spec is not None
    part, radius, second = patients.train, alignment.bound(spec), spec.kind == "coral"
    weights = {k: v for k, v in theta.items() if k not in alignment_names(theta)}
    place = partial(alignment.embedded, spec)
    sums = model.moment_sums(weights, part, place=place, radius=radius, second=second)
    everybody = 1 / plan.study.learner.sampling_rate
    sums = with_noise(
        sums,
        source,
        scale=noise_scale(plan, plan.sigma * everybody, clip=sensitivity(radius, second=second)),
    )
    found = scale(sums, 1 / plan.denominator(patients.declared, share=everybody))
    named = {f"alignment.{name}": value for name, value in found.items()}
    return {
        name: named[name].to(like) if name in named else like.new_ones(like.shape)
        for name, like in only(theta, alignment_names(theta)).items()
    }


def _both(
    model: PrivateModel, phi: Params, part: alignment.RecordPart, *, weight: float
) -> RecordLoss:
    """Return a record's loss of the task plus its weighted part in the distance."""
    fixed = {k: v.to(model.device) for k, v in phi.items() if k not in model.trained}

    def loss(point: Params, x: Tensor, y: Tensor) -> Tensor:
        task, z = model.loss_and_features({**fixed, **point}, x, y)
        return task + weight * part(z)

    return loss
