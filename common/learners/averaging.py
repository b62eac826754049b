"""The run's model as a mean of the weights of several rounds, which averages their noise away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.learners.types import AVERAGE, Apply, Contribution, State
from common.params import add, subtract
from common.study import ServerSpec


def averaged(apply: Apply, spec: ServerSpec, *, rounds: int) -> Apply:
    """Return `apply` with a mean of theta_1, theta_2, ... kept beside the weights.

    With w_r the weight of round r, the mean moves by a_r = a_{r-1} + w_r (theta_r - a_{r-1}):

        'tail'  over the rounds r > rounds / 2 (Polyak and Juditsky 1992, "Acceleration of
                stochastic approximation by averaging"): with r the n-th of them, w_r = 1 / n
        'ema'   theta_s counts as decay^(r - s), for s = 1..r, and all counts sum to 1:
                w_r = (1 - decay) / (1 - decay^r)

    Guarantees
        The mean is made of weights that were released before, and of public constants: it is
        post-processing, and costs nothing (Dwork and Roth 2014, proposition 2.1). The rounds
        themselves go on from theta_r, so their price and their course are what they were.

    Args:
        apply: A learner's.
        spec: The study's server table; with average 'none' `apply` is returned as it is.
        rounds: How many there are in the study.
    """
    if spec.average == "none":
        return apply

    def weight(number: int) -> float:
        """Return w_r; 0 for a round before the tail."""
        if spec.average == "ema":
            return (1 - spec.average_decay) / (1 - spec.average_decay**number)
        return 1 / (number - rounds // 2) if number > rounds // 2 else 0.0

    def apply_and_average(state: State, contributions: Sequence[Contribution]) -> State:
        after = apply(state, contributions)
        share = weight(after.round)
        if share == 0:
            return after
        mean = state.moments.get(AVERAGE, after.params)
        mean = add(mean, subtract(after.params, mean), scale=share)
        return replace(after, moments={**after.moments, AVERAGE: mean})

    return apply_and_average
