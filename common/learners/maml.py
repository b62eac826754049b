"""MAML: the gradient of the query loss through the inner steps, in two private forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch.func import grad

from common.cohort.parts import Part
from common.learners.inner import draw, noise_scale, noisy_sum
from common.learners.outer import server_step
from common.learners.tasks import episodes, shares, support_and_query
from common.learners.types import Adapt, Learner, Patients, State
from common.params import Params, add, flatten, only, scale, unflatten, zeros_like
from common.plan import Plan
from common.privacy.clipping import clip_rows
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source, with_noise


def maml(plan: Plan) -> Learner:
    """MAML over hospitals (Finn, Abbeel and Levine 2017), private by patient or by episode.

    The study's server step takes the mean of the deltas; a server step of 1 / alpha is a meta-step
    of 1.
    """
    meta = plan.study.learner.meta
    assert meta is not None  # LearnerSpec fills it in
    adapt = by_episode(plan) if meta.unit == "episode" else by_patient(plan)
    return Learner(name="maml", init=State, adapt=adapt, apply=server_step(plan.study.server))


def by_patient(plan: Plan) -> Adapt:
    """Return MAML's adaptation with every patient's part in it clipped, and noise on every sum.

    For k = 0..K-1, with a fresh Poisson sample B_k of the support patients, forwards:

        phi_{k+1} = phi_k - alpha/D (sum_{j in B_k} clip_C(g_j(phi_k)) + N(0, (sigma C)^2 I))

    then the query gradient v_K as in `common.learners.fomaml`, then backwards, with c the curvature
    clip and H_j the Hessian of patient j's loss:

        v_k = v_{k+1} - alpha/D (sum_{j in B_k} clip_{c |v_{k+1}|}(H_j(phi_k) v_{k+1})
                                 + N(0, (sigma c |v_{k+1}|)^2 I))

    and delta = -alpha v_0. Without clipping and noise, with q = 1 and D the number of patients, v_0
    is the exact gradient of theta -> query loss(phi_K(theta)): d phi_{k+1} / d phi_k is
    I - alpha mean_j H_j(phi_k), which is symmetric.

    Guarantees
        Let D' be D with patient x more, S_k the sample of the others in step k, and b_k whether x
        is in it: Bernoulli(q), independent over k. Step k is asked two queries about B_k, one
        forwards and one backwards, and what it is asked the second time depends on all answers
        before. The batch itself never leaves.

        1. Two queries, one sample. Given S_k, the presence of x moves the first sum by at most C
           and the second by at most c |v|, whose noise is sigma C and sigma c |v|: v is known from
           answers given before. In units of the noise each moves by at most 1 / sigma, whatever the
           first answer was. So two Gaussian queries on one fixed batch, the second chosen by the
           answer to the first, are one of multiplier s = (1/sigma^2 + 1/sigma^2)^(-1/2) = sigma /
           sqrt(2): there is a randomised map T_S that turns a draw of N(0, 1) into the answers
           without x and a draw of N(1/s, 1) into those with x (split the draw by a rotation into
           independent N(b / sigma, 1) for each query, shrink each shift to the true one by adding
           noise, and answer the queries as they are asked; Dong, Roth and Su 2022, theorem 4).
        2. Sampling. T_S does not look at b_k, so it turns a draw X_k of (1-q) N(0, 1) + q N(1/s, 1)
           into step k's answers about D', and of N(0, 1) into those about D: step k is at most one
           Poisson-subsampled Gaussian of multiplier s.
        3. Interleaving. The steps' second queries come after all first ones, in reverse order. T_S
           answers queries as they are asked, so X_0..X_{K-1}, drawn independently beforehand, and
           the query gradient's own draw are enough to play the whole exchange in any order. The
           transcript is post-processing of K independent sampled Gaussians of multiplier s and one
           of sigma_q, on the query's patients. (In general: concurrent composition, Vadhan and
           Zhang, STOC 2023.)

        What 1 needs: b_k is drawn once a step and both queries use that one sample with the same
        records of each patient; a second sample would be a third mechanism. alpha, D, K, C and c
        are public constants. Every delta is post-processing of the transcript.
    """
    meta, learner = plan.study.learner.meta, plan.study.learner
    assert meta is not None
    support_share, query_share = shares(meta)

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        support, query = support_and_query(patients.train, meta)
        step = learner.learning_rate / plan.denominator(patients.declared, share=support_share)
        phi, path = theta, []
        for _ in range(learner.local_steps):
            batch = draw(plan, support, source)
            path.append((phi, batch))
            phi = add(phi, noisy_sum(plan, model, phi, batch, source), scale=-step)
        batch = draw(plan, query, source)
        v = noisy_sum(plan, model, phi, batch, source, sigma=plan.query_sigma)
        v = scale(v, 1 / plan.denominator(patients.declared, share=query_share))
        for at, batch in reversed(path):
            v = add(v, noisy_product(plan, model, at, batch, v, source), scale=-step)
        return scale(v, -learner.learning_rate)

    return adapt


def noisy_product(
    plan: Plan, model: PrivateModel, at: Params, batch: Part, direction: Params, source: Source
) -> Params:
    """Return the sum of the batch's clipped Hessian-vector products, with its noise."""
    assert plan.study.learner.meta is not None
    length = float(torch.linalg.vector_norm(flatten(direction), dtype=torch.float64))
    clip = plan.study.learner.meta.curvature_clip * length if plan.private else math.inf
    total = model.clipped_products(at, batch, direction=direction, clip=clip, rule=plan.clipping)
    return with_noise(total, source, scale=noise_scale(plan, plan.sigma, clip=clip))


def by_episode(plan: Plan) -> Adapt:
    """Return MAML's adaptation with each episode's whole meta-gradient clipped.

    A keyed hash puts every training patient into one of E episodes for good, and there into its
    support or its query. Episode e's meta-gradient m_e is exact, by `exact_meta_gradient`, and

        delta = -alpha/E (sum_e clip_C(m_e) + N(0, (sigma C)^2 I)).

    Guarantees
        Whatever happens inside an episode (steps without noise, means over a private count) is
        bounded by one clip at its end; m_e of an episode without support or without query, or not
        finite, is 0. One patient more, one less, or other records of a patient change one episode
        and leave the others as they were, so the sum moves by at most 2 C: adjacency 'replace', of
        an episode. E is public. Every episode takes part in every round: one Gaussian of
        multiplier sigma / 2 a round.
    """
    meta, learner = plan.study.learner.meta, plan.study.learner
    assert meta is not None

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        total = zeros_like(only(theta, model.trained))
        for support, query in episodes(patients.train, meta):
            if support.patients and query.patients:
                gradient = exact_meta_gradient(
                    model,
                    theta,
                    support,
                    query,
                    steps=learner.local_steps,
                    learning_rate=learner.learning_rate,
                )
                total = add(total, _clipped(gradient, plan))
        total = with_noise(total, source, scale=noise_scale(plan, plan.sigma))
        return scale(total, -learner.learning_rate / meta.episodes)

    return adapt


def exact_meta_gradient(
    model: PrivateModel,
    theta: Params,
    support: Part,
    query: Part,
    *,
    steps: int,
    learning_rate: float,
) -> Params:
    """Return the gradient at theta of the query loss after `steps` full gradient steps.

    It is of the weights that are trained. It has read patients without any protection: what leaves
    must be clipped and noised.
    """
    everything = {k: v.to(model.device) for k, v in theta.items()}

    def loss(phi: Params, part: Part) -> torch.Tensor:
        return model.mean_loss({**everything, **phi}, part)

    start = only(everything, model.trained)
    found = meta_gradient(loss, start, support, query, steps=steps, learning_rate=learning_rate)
    return {k: v.detach().cpu() for k, v in found.items()}


Cases = TypeVar("Cases")
Loss = Callable[[Params, Cases], torch.Tensor]


def meta_gradient(
    loss: Loss[Cases],
    theta: Params,
    support: Cases,
    query: Cases,
    *,
    steps: int,
    learning_rate: float,
    first_order: bool = False,
) -> Params:
    """Return the gradient at theta of the query loss after `steps` gradient steps on the support.

    Args:
        loss: (weights, cases) -> their mean loss; torch.func must be able to follow it twice.
        theta: Where to begin, and of which weights.
        support: The cases of the steps.
        query: The cases of the loss.
        steps: K.
        learning_rate: alpha.
        first_order: Whether to take the gradient at the adapted weights as it is (FOMAML).
    """

    def moved(start: Params) -> Params:
        return gradient_steps(loss, start, support, steps=steps, learning_rate=learning_rate)

    asked = loss if first_order else lambda start, cases: loss(moved(start), cases)
    found: Params = grad(asked)(moved(theta) if first_order else theta, query)
    return found


def gradient_steps(
    loss: Loss[Cases], start: Params, cases: Cases, *, steps: int, learning_rate: float
) -> Params:
    """Return the weights after so many full gradient steps, without noise."""
    phi = start
    for _ in range(steps):
        slope = grad(loss)(phi, cases)
        phi = {k: v - learning_rate * slope[k] for k, v in phi.items()}
    return phi


def _clipped(gradient: Params, plan: Plan) -> Params:
    """Return the whole gradient clipped to C by the plan's rule; one that is not finite is 0."""
    row = clip_rows(flatten(gradient)[None], clip=plan.clip, rule=plan.clipping)[0]
    return unflatten(row, gradient)
