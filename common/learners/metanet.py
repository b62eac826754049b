"""Meta Networks: fast weights from the support's gradients by a map that is learnt as well."""

from __future__ import annotations

from torch import Tensor

from common.fast_weights import fast, parted, slopes
from common.learners.inner import draw, noise_scale, noisy_sum
from common.learners.outer import server_step
from common.learners.tasks import shares, support_and_query
from common.learners.types import Learner, Patients, State
from common.params import Params, add, flatten, only, scale, unflatten
from common.plan import Plan
from common.privacy.engine import PrivateModel, RecordLoss
from common.privacy.noise import Source, with_noise


def metanet(plan: Plan) -> Learner:
    """Meta Networks over hospitals (Munkhdalai and Yu 2017), in the nearest form that is private.

    A task is a hospital. The slow weights W and a map m(.; psi) (`common.fast_weights`) are shared.
    For k = 0..K-1 the hospital takes a noisy mean gradient of its support patients,

        g_k = (sum_{j in B_k} clip_C(grad L_j(phi_k)) + N(0, (sigma C)^2 I)) / D_s,
        phi_{k+1} = phi_k + m(g_k; psi),    phi_0 = W,

    so that its fast weights are W* = phi_K = W + sum_k m(g_k; psi). A query patient's loss at W* is
    then a function of (W, psi), the g_k being given, whose gradient is that of L_j at W* and, for
    psi, this times d W* / d psi: one vector, clipped as one. With v their noisy mean,

        delta = -alpha (v_W, rate v_psi)

    and the study's server step takes the mean of the deltas. With psi as a run starts with it, m is
    a step of length alpha, and v_W is that of `common.learners.fomaml`.

    What differs from the paper, and why.
        The memory. The paper keeps, of each support example i, its own fast weights and an
        embedding as the key under which a query finds them by attention. Such an entry is made of
        one patient: with noise that hides him it says nothing (noise of a whole clip on one
        gradient in place of on a sum of hundreds), and how many there are would be a private count.
        It has no private form. Here all support patients write one entry together, the sums g_k,
        which every query reads. The fast weights of the embedding function, which the paper takes
        from the same support by a second loss, fall to the same entry: W* is the body's too.
        Layer augmentation. In the paper a layer adds up what slow and fast weights make of its
        input, each behind a nonlinearity of its own. Here the weights are added up, so that slow
        and adapted model are the study's model, which a hospital can judge and be handed.
        The map is the paper's but for its form as a step: m(g) = g times a learned factor of g.

    Guarantees
        g_k is a Poisson-subsampled Gaussian on support patients, given phi_k. Given the g_k, a
        query patient's vector depends on no other patient: he moves the query's sum by at most C,
        whatever psi and d W* / d psi are, for the clip comes last; so v is one more
        Poisson-subsampled Gaussian, on query patients. The support patients' part in v is through
        the g_k alone. The prices are those of `common.learners.fomaml`.
    """
    meta, spec, alpha = (
        plan.study.learner.meta,
        plan.study.learner.metanet,
        plan.study.learner.learning_rate,
    )
    assert meta is not None  # LearnerSpec fills both in
    assert spec is not None
    support_share, query_share = shares(meta)

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        support, query = support_and_query(patients.train, meta)
        mean = 1 / plan.denominator(patients.declared, share=support_share)
        (phi, psi), gradients = parted(theta), []
        for _ in range(plan.study.learner.local_steps):
            batch = draw(plan, support, source)
            gradients.append(scale(noisy_sum(plan, model, phi, batch, source), mean))
            phi = add(phi, fast(gradients[-1], psi, rate=alpha))
        batch = draw(plan, query, source)
        total = model.clipped_sum_of(
            _loss_after(model, phi, psi, slopes(gradients, psi, rate=alpha)),
            {**only(phi, model.trained), **psi},
            batch,
            clip=plan.clip,
            rule=plan.clipping,
        )
        total = with_noise(total, source, scale=noise_scale(plan, plan.query_sigma))
        v = scale(total, -alpha / plan.denominator(patients.declared, share=query_share))
        return {k: spec.rate * value if k in psi else value for k, value in v.items()}

    return Learner(name="metanet", init=State, adapt=adapt, apply=server_step(plan.study.server))


def _loss_after(model: PrivateModel, phi: Params, psi: Params, along: Tensor) -> RecordLoss:
    """Return a record's loss at the fast weights, as a function of these and of psi.

    Around the psi given it is exact in its value and in its gradient, which is all that is asked
    of it: W* moves with psi as `along` = d W* / d psi, (weights that are trained, psi), says.
    """
    device = model.device
    fixed = {k: v.to(device) for k, v in phi.items() if k not in model.trained}
    start, along = flatten(psi).to(device), along.to(device)

    def loss(point: Params, x: Tensor, y: Tensor) -> Tensor:
        weights = only(point, model.trained)
        moved = unflatten(along @ (flatten(only(point, psi)) - start), weights)
        return model.loss({**fixed, **add(weights, moved)}, x, y)

    return loss
