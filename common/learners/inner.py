"""The inner loop every learner here shares: K private steps from the shared weights."""

from __future__ import annotations

from collections.abc import Callable

from common.cohort.parts import Part
from common.learner_spec import LearnerSpec
from common.learners.types import Adapt, Patients
from common.params import Params, add, only, scale, subtract
from common.plan import Plan
from common.privacy.augmentation import with_views
from common.privacy.engine import PrivateModel
from common.privacy.noise import Source, with_noise
from common.privacy.sampling import sample_patients


def private_steps(plan: Plan, *, proximal: float = 0.0) -> Adapt:
    """Return the function that adapts the shared weights to one hospital by K steps of DP-SGD.

    With phi_0 = theta, for k = 0..K-1 and a fresh Poisson sample B_k of the training patients:

        phi_{k+1} = phi_k - alpha ( (sum_{j in B_k} clip_C(g_j(phi_k)) + N(0, sigma^2 C^2 I)) / D
                                    + mu (phi_k - theta) )

    and the delta is phi_K - theta, of the weights that are trained.

    Guarantees
        Each step is one Poisson-subsampled Gaussian mechanism with noise multiplier sigma (see
        `common.privacy.engine`); alpha, C, D, K and mu are public constants and theta was released
        before, so the delta is post-processing of K adaptively composed mechanisms, whatever other
        sites put into theta. Priced as `Plan.training_prices`. Without a privacy table sigma is 0,
        C is infinite and the price is infinite.

    Args:
        plan: Gives K, alpha, q, k, C, sigma and D.
        proximal: mu, the pull towards theta (Li et al. 2020, FedProx); 0 for none.
    """
    learner = plan.study.learner

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        share = 1 / plan.denominator(patients.declared)
        move, phi = stepper(learner), theta
        for _ in range(learner.local_steps):
            batch = draw(plan, patients.train, source)
            moved = move(phi, noisy_sum(plan, model, phi, batch, source), share)
            if proximal > 0:
                pull = scale(subtract(phi, theta), learner.learning_rate * proximal)
                moved = subtract(moved, pull)
            phi = moved
            del moved  # a large model's next step would be taken beside it
        return only(subtract(phi, theta), model.trained)

    return adapt


Move = Callable[[Params, Params, float], Params]


def stepper(spec: LearnerSpec) -> Move:
    """Return the function that takes one step: (weights, a sum of gradients, 1 / D) -> weights.

    'adam' is Adam with beta1 = 0 (Kingma and Ba 2015; Nichol et al. 2018 take it for Reptile): each
    weight's step is divided by the root of its own mean square so far. Begun anew with every call
    of this function. It looks at noisy sums alone: post-processing.
    """
    if spec.optimizer == "sgd":
        return lambda phi, total, share: add(phi, total, scale=-spec.learning_rate * share)
    squares: Params = {}
    count = 0

    def adam(phi: Params, total: Params, share: float) -> Params:
        nonlocal squares, count
        count += 1
        mean = scale(total, share)
        fresh = {k: (1 - _BETA2) * v * v for k, v in mean.items()}
        squares = add(fresh, squares, scale=_BETA2) if squares else fresh
        unbiased = 1 - _BETA2**count
        ahead = {k: v / ((squares[k] / unbiased).sqrt() + _TINY) for k, v in mean.items()}
        return add(phi, ahead, scale=-spec.learning_rate)

    return adam


_BETA2, _TINY = 0.999, 1e-8


def draw(plan: Plan, part: Part, source: Source) -> Part:
    """Return the secret Poisson sample of one step, with at most k records of each patient.

    With augmentation, each record comes with how its copies are to be altered, drawn once: whoever
    asks twice about the sample asks about the same copies.
    """
    batch = sample_patients(
        part,
        source,
        rate=plan.study.learner.sampling_rate,
        max_records=plan.study.cohort.max_records,
    )
    return with_views(batch, plan.study.learner.augmentation, source)


def noisy_sum(
    plan: Plan,
    model: PrivateModel,
    params: Params,
    batch: Part,
    source: Source,
    *,
    sigma: float | None = None,
) -> Params:
    """Return the sum of the batch's clipped gradients plus N(0, (sigma C)^2).

    Args:
        plan: Gives C, and sigma of an inner step.
        model: Takes the gradients.
        params: Where to take them.
        batch: As `draw` gave it.
        source: Of the noise.
        sigma: Another noise multiplier than an inner step's.
    """
    total = model.clipped_sum(params, batch, clip=plan.clip, rule=plan.clipping)
    return with_noise(
        total, source, scale=noise_scale(plan, plan.sigma if sigma is None else sigma)
    )


def noise_scale(plan: Plan, sigma: float, *, clip: float | None = None) -> float:
    """Return the standard deviation sigma C, or 0 where nothing is promised: C is infinite."""
    return sigma * (plan.clip if clip is None else clip) if plan.private else 0.0
