"""The inner loop every learner here shares: K private steps from the shared weights."""

from __future__ import annotations

from common.learners.types import Adapt, Patients
from common.params import Params, add, scale, subtract
from common.plan import Plan
from common.privacy.engine import PrivateModel, sample_patients, with_noise
from common.privacy.noise import Source


def private_steps(plan: Plan, *, proximal: float = 0.0) -> Adapt:
    """Return the function that adapts the shared weights to one hospital by K steps of DP-SGD.

    With phi_0 = theta, for k = 0..K-1 and a fresh Poisson sample B_k of the training patients:

        phi_{k+1} = phi_k - alpha ( (sum_{j in B_k} clip_C(g_j(phi_k)) + N(0, sigma^2 C^2 I)) / D
                                    + mu (phi_k - theta) )

    and the delta is phi_K - theta.

    Guarantees
        Each step is one Poisson-subsampled Gaussian mechanism with noise multiplier sigma (see
        `common.privacy.engine`); alpha, C, D, K and mu are public constants and theta was released
        before, so the delta is post-processing of K adaptively composed mechanisms, whatever other
        sites put into theta. Priced as `Plan.training_price`. Without a privacy table sigma is 0,
        C is infinite and the price is infinite.

    Args:
        plan: Gives K, alpha, q, k, C, sigma and D.
        proximal: mu, the pull towards theta (Li et al. 2020, FedProx); 0 for none.
    """
    learner, clip = plan.study.learner, plan.clip
    max_records = plan.study.cohort.max_records
    noise_scale = plan.sigma * clip if plan.private else 0.0

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        step = learner.learning_rate / plan.denominator(patients.declared)
        phi = theta
        for _ in range(learner.local_steps):
            batch = sample_patients(
                patients.train, source, rate=learner.sampling_rate, max_records=max_records
            )
            total = model.clipped_sum(phi, batch, clip=clip)
            total = with_noise(total, source, scale=noise_scale)
            moved = add(phi, total, scale=-step)
            if proximal > 0:
                pull = scale(subtract(phi, theta), learner.learning_rate * proximal)
                moved = subtract(moved, pull)
            phi = moved
            del total, moved  # a large model's next step would be taken beside them
        return subtract(phi, theta)

    return adapt
