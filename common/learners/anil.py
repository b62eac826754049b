"""Almost no inner loop: the inner steps move the head alone, the query the body."""

from __future__ import annotations

from common.learners.inner import draw, noisy_sum
from common.learners.outer import server_step
from common.learners.tasks import shares, support_and_query
from common.learners.types import Learner, Patients, State
from common.params import Params, add, head_of, only, subtract
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source


def anil(plan: Plan) -> Learner:
    """ANIL over hospitals (Raghu et al. 2020), first order, with a head that never leaves.

    phi_K is K private steps of the head on support patients; the query gradient at phi_K moves the
    body, delta = -alpha v as in `common.learners.fomaml`. The paper's meta-learned start of the
    head would have to leave; here each hospital starts from the head it ended its last round with.

    Guarantees
        Those of `common.learners.fomaml`, whose steps these are, and of `common.learners.fedrep`
        for the head: it is trained by accounted steps alone, clipped together with the body.
        Parting support and query would not save a head trained without noise: support patients
        would leak through it.
    """
    meta, spec = plan.study.learner.meta, plan.study.learner
    assert meta is not None  # LearnerSpec fills it in
    support_share, query_share = shares(meta)

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        head = head_of(theta)
        support, query = support_and_query(patients.train, meta)
        step = spec.learning_rate / plan.denominator(patients.declared, share=support_share)
        phi = theta
        for _ in range(spec.local_steps):
            batch = draw(plan, support, source)
            total = noisy_sum(plan, model, phi, batch, source)
            phi = add(phi, only(total, head), scale=-step)
        batch = draw(plan, query, source)
        total = noisy_sum(plan, model, phi, batch, source, sigma=plan.query_sigma)
        step = spec.learning_rate / plan.denominator(patients.declared, share=query_share)
        body = only(total, theta.keys() - head)
        return subtract(add(phi, body, scale=-step), theta)

    return Learner(
        name="anil", init=State, adapt=adapt, apply=server_step(plan.study.server), stays=head_of
    )
