"""A shared body under heads that never leave: FedRep."""

from __future__ import annotations

from common.learners.inner import draw, noisy_sum
from common.learners.outer import server_step
from common.learners.types import Learner, Patients, State
from common.params import Params, add, head_of, only, subtract
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source


def fedrep(plan: Plan) -> Learner:
    """FedRep over hospitals (Collins et al. 2021): a body for all, a head for each.

    A round is H steps that move the head, then K that move the body under that head; the body's
    change is the delta. The head stays at the hospital, which starts the next round with it.

    Guarantees
        The head never leaves, yet the body's gradients flow through it: a head trained without
        noise would carry its patients into the body's delta, and on other patients it would carry
        those. So every step, of the head too, is one Poisson-subsampled Gaussian on the training
        patients: a patient's gradient is clipped as a whole, head and body together, noise is
        added to all of it, and what a step does not use is dropped, which is post-processing. The
        head that is kept from round to round is then the outcome of mechanisms that are paid for,
        as weights that came back from the coordinator would be. Price: H + K steps a round.
    """
    spec, rate = plan.study.learner, plan.study.learner.learning_rate
    assert spec.head_steps is not None  # LearnerSpec fills it in
    steps = (spec.head_steps, spec.local_steps)

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        step, head = rate / plan.denominator(patients.declared), head_of(theta)
        body, phi = theta.keys() - head, theta
        for names in [head] * steps[0] + [body] * steps[1]:
            batch = draw(plan, patients.train, source)
            total = noisy_sum(plan, model, phi, batch, source)
            phi = add(phi, only(total, names), scale=-step)
        return subtract(phi, theta)

    return Learner(
        name="fedrep",
        init=State,
        adapt=adapt,
        apply=server_step(plan.study.server),
        stays=head_of,
    )
