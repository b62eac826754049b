"""The inner loop every learner here shares: K private steps from the shared weights."""

from __future__ import annotations

from common.cohort.parts import Part
from common.learners.types import Adapt, Patients
from common.params import Params, add, only, scale, subtract
from common.plan import Plan
from common.privacy.augmentation import with_views
from common.privacy.engine import PrivateModel, sample_patients, with_noise
from common.privacy.noise import Source


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
        step = learner.learning_rate / plan.denominator(patients.declared)
        phi = theta
        for _ in range(learner.local_steps):
            batch = draw(plan, patients.train, source)
            moved = add(phi, noisy_sum(plan, model, phi, batch, source), scale=-step)
            if proximal > 0:
                pull = scale(subtract(phi, theta), learner.learning_rate * proximal)
                moved = subtract(moved, pull)
            phi = moved
            del moved  # a large model's next step would be taken beside it
        return only(subtract(phi, theta), model.trained)

    return adapt


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
