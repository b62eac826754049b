"""What a list of events costs a patient: epsilon by privacy loss distributions (PLD).

Guarantees
    Two data sets are neighbours if one has one patient more (add/remove). The figure is an upper
    bound: dp-accounting discretises the privacy loss pessimistically. (Koskela et al. 2020;
    Doroshenko et al. 2022, "Connect the dots".)

    Events of adjacency 'replace' sum over units that keep their place: neighbours differ in what is
    in one unit (an episode), for which one patient more, one less, or other records of a patient
    are cases. A sum of units clipped to C then moves by at most 2 C, so a Gaussian of noise
    multiplier sigma on all of them is one of sensitivity 1 and multiplier sigma / 2. A sampled one
    is refused: no tight price of it is proven for vectors. Events of the two adjacencies are never
    added up.

    Events on the training part and on the holdout part touch different patients: the split is a
    keyed hash of the patient's own id, so one patient more or less changes one part only and leaves
    the other as it was. The parts therefore compose in parallel, and a patient's epsilon is the
    larger of the two (McSherry 2009, theorem 4). Events on the same part compose. Training
    patients may be parted again, by the same kind of hash, into those of the support and those of
    the query: a patient pays for the events on all training patients and for those on the own side.

    ==========================  ==========================================
    events                      epsilon
    ==========================  ==========================================
    none                        0
    any `Unprotected`           infinity
    a sampled 'replace' event   refused
    delta = 0                   infinity (a Gaussian has no pure epsilon)
    ==========================  ==========================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
from dp_accounting.pld import pld_pmf
from dp_accounting.pld.privacy_loss_distribution import (
    PrivacyLossDistribution,
    from_gaussian_mechanism,
    identity,
)
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from common.errors import GrandroundsError, StudyError
from common.privacy.events import Adjacency, Event, Part, PoissonGaussian, Unprotected, merge

ACCOUNTANT = "PLD (dp-accounting)"
ADJACENCIES: dict[Adjacency, str] = {
    "add_remove": "add/remove one patient",
    "replace": "replace one episode, whatever patients are in it",
}
ADJACENCY = ADJACENCIES["add_remove"]
UNIT = "patient"

_WHO_PAYS: tuple[frozenset[Part], ...] = (  # every kind of patient, by the parts that hold them
    frozenset({"train", "support"}),
    frozenset({"train", "query"}),
    frozenset({"holdout"}),
)

_GRID = 1e-4  # of privacy losses: the accountant's own
_SIGMA_STEP = 1e-3  # sigma is rounded up to a multiple, so that a digest survives float noise
SIGMA_MIN = 0.1  # below it a single release costs epsilon in the hundreds: nothing worth a price
_SIGMA_MAX = 1e4


def epsilon(events: Iterable[Event], *, delta: float) -> float:
    """Return what the events cost one patient, parts in parallel.

    Args:
        events: Everything released about the cohort.
        delta: The probability with which the bound may fail, in [0, 1).

    Returns:
        Epsilon of (epsilon, delta)-differential privacy; 0 for no events, infinity where any
        event is unprotected.

    Raises:
        GrandroundsError: events are of different adjacency, or one of adjacency 'replace' is
            sampled.

    >>> from common.privacy.events import gaussian
    >>> round(epsilon([gaussian(sigma=1.0, sampling_rate=.05, count=500, part="train")],
    ...               delta=5e-5), 2)
    6.8
    """
    if not 0 <= delta < 1:
        raise ValueError(f"delta is {delta}; use a number in [0, 1)")
    merged = merge(events)
    _check_priced(merged)
    paid = {tuple(e for e in merged if e.part in parts) for parts in _WHO_PAYS}
    return max((_part_epsilon(own, delta) for own in paid if own), default=0.0)


def _check_priced(events: Iterable[Event]) -> None:
    for event in events:
        if event.adjacency == "replace" and is_subsampled(event):
            raise GrandroundsError(
                f"privacy event {event} is sampled and of adjacency 'replace', which has no price",
                remedy="take every unit in every step: sampling rate 1",
            )


@lru_cache(maxsize=4096)
def _part_epsilon(events: tuple[Event, ...], delta: float) -> float:
    if delta == 0 or any(isinstance(e, Unprotected) for e in events):
        return math.inf
    total = identity(value_discretization_interval=_GRID)
    for event in events:
        assert isinstance(event, PoissonGaussian)  # an unknown event is refused when it is read
        total = total.compose(_losses(event))
    return float(total.get_epsilon_for_delta(delta))


def _losses(event: PoissonGaussian) -> PrivacyLossDistribution:
    """Return an event's losses as dp-accounting's accountant composes them, bit for bit.

    The accountant would work a sampled step out anew for every count, which takes most of its time.
    """
    if event.sampling_rate == 1:  # n Gaussians of sigma are one of sigma / sqrt(n)
        moves = 2 if event.adjacency == "replace" else 1  # a unit exchanged moves the sum by 2 C
        return _gaussian(event.sigma / moves / math.sqrt(event.count))
    return _sampled_step(event.sigma, event.sampling_rate).self_compose(event.count)


# A few hundred kilobytes each, megabytes where sigma is small; a site runs few studies at once.
@lru_cache(maxsize=4)
def _sampled_step(sigma: float, sampling_rate: float) -> PrivacyLossDistribution:
    return from_gaussian_mechanism(
        sigma, sampling_prob=sampling_rate, value_discretization_interval=_GRID
    )


class _AllAtOnce(GaussianPrivacyLoss):  # type: ignore[misc]  # dp-accounting ships no types
    """dp-accounting's Gaussian of sensitivity 1, in arrays where it goes through a list."""

    def get_delta_for_epsilon(self, epsilon: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the divergence at each epsilon, (points,); nobody is sampled out."""
        x = -0.5 - epsilon * self.standard_deviation**2
        deltas = self.mu_upper_cdf(x) - np.exp(epsilon + self.mu_lower_log_cdf(x))
        clipped: NDArray[np.float64] = np.clip(deltas, 0.0, 1.0)
        return clipped


def _gaussian(sigma: float) -> PrivacyLossDistribution:
    """Return the losses of one Gaussian on all patients, as `from_gaussian_mechanism` does."""
    mechanism = _AllAtOnce(sigma, adjacency_type=AdjacencyType.REMOVE)
    bounds = mechanism.connect_dots_bounds()
    low, high = math.floor(bounds.epsilon_lower / _GRID), math.ceil(bounds.epsilon_upper / _GRID)
    deltas = mechanism.get_delta_for_epsilon(np.arange(low, high + 1) * _GRID)
    return PrivacyLossDistribution(
        pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(_GRID, low, high, deltas)
    )


def calibrate_sigma(
    *, target_epsilon: float, delta: float, price: Callable[[float], Sequence[Event]]
) -> float:
    """Return the smallest sigma of at least 0.1, in steps of 0.001, that meets the target.

    The search asks the accountant at every step; a closed formula only chooses where it starts.

    Args:
        target_epsilon: The epsilon to meet, above 0.
        delta: As in `epsilon`, above 0.
        price: Maps a sigma to the events it would make, which cost less the larger it is.

    Raises:
        StudyError: no sigma up to 10,000 meets the target.
    """

    def cost(steps: int) -> float:
        return epsilon(price(steps * _SIGMA_STEP), delta=delta)

    start = _start(price(1.0), target_epsilon, delta)
    low, high = _bracket(cost, start=start, target=target_epsilon)
    while high - low > 1:  # whole steps of sigma: no float drift
        middle = _between(low, high, cost(low), cost(high), target_epsilon)
        low, high = (low, middle) if cost(middle) <= target_epsilon else (middle, high)
    return round(high * _SIGMA_STEP, 3)


def _bracket(cost: Callable[[int], float], *, start: int, target: float) -> tuple[int, int]:
    """Return (low, high) in steps: low costs more than the target, high at most the target."""
    edge, width = start, 1  # the start is exact where nobody is sampled out
    if cost(start) > target:
        while cost(edge) > target:
            low, edge, width = edge, edge + width, 4 * width
            if edge * _SIGMA_STEP > _SIGMA_MAX:
                raise StudyError(
                    f"privacy.epsilon is {target}: no noise up to sigma {_SIGMA_MAX:g} reaches it",
                    remedy="raise privacy.epsilon, or lower rounds.count or learner.local_steps",
                )
        return low, edge
    floor = round(SIGMA_MIN / _SIGMA_STEP)
    high = edge
    while edge > floor and cost(edge) <= target:
        high, edge, width = edge, max(floor, edge - width), 4 * width
    return (edge, high) if cost(edge) > target else (floor - 1, floor)


def _between(low: int, high: int, at_low: float, at_high: float, target: float) -> int:
    """Interpolate log epsilon over log sigma; halve where an end has no logarithm."""
    if not (0 < at_high < at_low < math.inf):
        return (low + high) // 2
    share = math.log(at_low / target) / math.log(at_low / at_high)
    guess = round(low * math.exp(share * math.log(high / low)))
    guess += 1 if guess - low > high - guess else -1  # so that the far end closes in too
    return min(max(guess, low + 1), high - 1)


def _start(units: Sequence[Event], target: float, delta: float) -> int:
    """Guess sigma in steps from the central-limit formula of Gaussian DP (Bu et al. 2020).

    The formula understates epsilon where few steps are sampled, so it never prices anything here.
    """

    def square(unit: Event, inverse_square: float) -> float:
        assert isinstance(unit, PoissonGaussian)
        inverse_square *= (4 if unit.adjacency == "replace" else 1) / unit.sigma**2
        if unit.sampling_rate < 1:
            inverse_square = unit.sampling_rate**2 * math.expm1(min(inverse_square, 700.0))
        return unit.count * inverse_square

    def excess(log_sigma: float) -> float:
        mu = math.sqrt(sum(square(unit, math.exp(-2 * log_sigma)) for unit in units))
        above = norm.cdf(mu / 2 - target / mu)
        return float(above - math.exp(min(target, 700.0)) * norm.cdf(-mu / 2 - target / mu) - delta)

    low, high = math.log(SIGMA_MIN), math.log(_SIGMA_MAX)
    if excess(low) <= 0:
        return round(SIGMA_MIN / _SIGMA_STEP)
    if excess(high) >= 0:
        return round(_SIGMA_MAX / _SIGMA_STEP)
    return round(math.exp(brentq(excess, low, high)) / _SIGMA_STEP)


def delta_limit(declared: int) -> float:
    """Return the largest delta that a cohort of `declared` patients accepts: 1 / (10 declared).

    >>> delta_limit(200)
    0.0005
    """
    return 1.0 / (10 * declared)


def is_subsampled(event: Event) -> bool:
    """Tell whether the event's amplification rests on a secret Poisson sample."""
    return isinstance(event, PoissonGaussian) and event.sampling_rate < 1
