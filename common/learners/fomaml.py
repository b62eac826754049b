"""First-order MAML: the query gradient at the adapted weights, as if nothing had led there."""

from __future__ import annotations

from common.learners.inner import draw, noisy_sum
from common.learners.outer import server_step
from common.learners.tasks import shares, support_and_query
from common.learners.types import Learner, Patients, State
from common.params import Params, add, scale
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source


def fomaml(plan: Plan) -> Learner:
    """FOMAML over hospitals (Finn, Abbeel and Levine 2017, section 5.2), privately.

    A task is a hospital. phi_K is K private steps from theta on support patients
    (`common.learners.inner`); the hospital releases

        delta = -alpha v,    v = (sum_{j in Q} clip_C(g_j(phi_K)) + N(0, (sigma_q C)^2 I)) / D_q

    with Q a fresh Poisson sample of its query patients, and the study's server step takes the mean
    of the deltas. A server step of 1 / alpha is a meta-step of 1.

    Guarantees
        phi_K is the outcome of K Poisson-subsampled Gaussians on support patients and v of one more
        on query patients. It does not help that only v leaves: every support patient moves phi_K
        and through it every query gradient, so the inner steps must be private too. Where a keyed
        hash parts support and query, a patient is read by one kind alone and the prices compose in
        parallel; from a shared pool everybody pays both. `common.privacy.mechanisms` has the
        events.
    """
    meta, rate = plan.study.learner.meta, plan.study.learner.learning_rate
    assert meta is not None  # LearnerSpec fills it in
    support_share, query_share = shares(meta)

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        support, query = support_and_query(patients.train, meta)
        step = rate / plan.denominator(patients.declared, share=support_share)
        phi = theta
        for _ in range(plan.study.learner.local_steps):
            batch = draw(plan, support, source)
            phi = add(phi, noisy_sum(plan, model, phi, batch, source), scale=-step)
        batch = draw(plan, query, source)
        total = noisy_sum(plan, model, phi, batch, source, sigma=plan.query_sigma)
        return scale(total, -rate / plan.denominator(patients.declared, share=query_share))

    return Learner(name="fomaml", init=State, adapt=adapt, apply=server_step(plan.study.server))
