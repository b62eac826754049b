"""Where a hospital's features lie, released once, at a price: what others choose and map by."""

from __future__ import annotations

from torch import Tensor

from common.cohort.parts import Part
from common.privacy.events import Event, gaussian
from common.privacy.moments import Moments, moment_sums, moments_of, sensitivity
from common.privacy.noise import Source, with_noise
from common.references import within


def released_moments(
    places: Tensor, part: Part, source: Source, *, radius: float, sigma: float, classes: int
) -> tuple[Moments, Event]:
    """Return a part's moments and classes' means with noise, and what they cost its patients.

    Guarantees
        One Gaussian mechanism of multiplier sigma on all training patients, whatever a step of
        training samples (`common.privacy.moments` derives the bound, 3 R / 2); it adds up with what
        else they pay.

    Args:
        places: Features of the part's records, (records, dim), as a model that was released before
            gives them; drawn in to the radius here.
        part: Whose they are.
        source: Of the noise.
        radius: R.
        sigma: Noise multiplier; 0 is no noise, and an infinite price.
        classes: How many.
    """
    sums = moment_sums(within(places, radius), part, radius=radius, classes=classes)
    noisy = with_noise(sums, source, scale=sigma * sensitivity(radius, classes=True))
    return moments_of(noisy, radius=radius), gaussian(sigma=sigma, count=1, part="train")
