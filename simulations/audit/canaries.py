"""C, canaries: each is in the cohort or not by the toss of a coin; how many tosses can be told?

One run of the engine with thousands of canaries, each of which it sees as a patient. What the
coordinator would receive is read in each canary's direction; three scores of it say who was there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.auditing import f_dp, one_run
from common.auditing.guessing import correct_guesses, log_likelihood_ratio
from common.auditing.outcome import Outcome, judge_bound
from common.cohort.parts import Part
from common.metrics import Array, Bools
from common.params import add, scale
from common.seeds import derive
from simulations.audit.experiments import Experiment, Seen
from simulations.audit.rig import rig
from simulations.audit.subject import Subject, stream

SCORES = ("likelihood ratio", "sum", "range")
BOUNDS = {"one run": one_run, "f-DP": f_dp}
_SHOWN = 2000  # points of a picture


@dataclass(frozen=True)
class Tosses:
    """What was tossed, and the scores of each canary: the higher, the more likely it was there.

    Attributes:
        there: Whether the canary was in the cohort, (canaries,) bool.
        scores: By name, (canaries,).
    """

    there: Bools
    scores: dict[str, Array]

    def correct(self, score: str, guesses: int) -> int:
        """Return how many of so many guesses are right, half of them 'in' and half 'out'."""
        half = guesses // 2
        return correct_guesses(self.scores[score], self.there, as_in=half, as_out=guesses - half)


def tosses_of(
    subject: Subject,
    *,
    canaries: int,
    others: int | Part,
    releases: int,
    generator: str,
    records: int,
    seed: int,
) -> Tosses:
    """Run the engine with half of the canaries, and score all of them.

    Every release is of one step, so that each sum is seen by itself: no delta of several steps
    says more, and the price is that of the same number of steps.

    Args:
        subject: What is audited.
        canaries: How many; each is in the cohort with probability 1/2.
        others: The patients beside them, or how many are to be invented.
        releases: How many.
        generator: 'secure' or 'seeded'.
        records: Of each of the other patients.
        seed: Of the coins, weights, patients and seeded streams.
    """
    made = rig(
        subject,
        canaries=canaries,
        others=others,
        steps=1,
        most_steps=releases,
        records=records,
        seed=seed,
    )
    there = np.random.default_rng(derive(seed, "audit", "coins")).random(canaries) < 0.5
    part, theta = made.with_canaries(there), made.bench.theta
    seen = np.empty((releases, canaries))
    for release in range(releases):
        source = stream(generator, "audit", "canaries", release, seed=seed)
        total = made.bench.total(part, source, theta=theta)
        moved = scale(total, -made.bench.step)
        theta = {k: v.to(theta[k].dtype) for k, v in add(theta, moved).items()}
        seen[release] = np.nan_to_num(made.read(total))
    ratio = log_likelihood_ratio(seen, sigma=subject.sigma, rate=subject.rate)
    reach = seen.max(axis=0) - np.abs(seen.min(axis=0))
    return Tosses(there, dict(zip(SCORES, (ratio, seen.sum(axis=0), reach), strict=True)))


def canaries(
    subject: Subject,
    *,
    claimed_epsilon: float,
    count: int,
    others: int,
    releases: int,
    records: int,
    seed: int,
) -> Experiment:
    """C: lower bounds of epsilon from one run."""
    names = {(s, b): f"C canaries: {s}, {b}" for s in SCORES for b in BOUNDS}
    guesses, delta = count // 5, subject.plan.delta

    def carry_out(level: float, seen: Seen) -> list[Outcome]:
        tosses = tosses_of(
            subject,
            canaries=count,
            others=others,
            releases=releases,
            generator="secure",
            records=records,
            seed=seed,
        )
        game: dict[str, Any] = {"canaries": count, "guesses": guesses, "delta": delta, "p": level}
        for (score, bound), name in names.items():
            right = tosses.correct(score, guesses)
            seen.bounds[name] = BOUNDS[bound].lower_bound(correct=right, **game)
        seen.ceiling = max(bound.ceiling(**game) for bound in BOUNDS.values())
        seen.evidence["C"] = evidence_of(tosses, guesses)
        return [
            judge_bound(n, lower=seen.bounds[n], claimed_epsilon=claimed_epsilon)
            for n in names.values()
        ]

    return Experiment("canaries", tuple(names.values()), (), carry_out)


def evidence_of(tosses: Tosses, guesses: int) -> dict[str, Any]:
    """Return plain values for the page: the best score's figures, and what was guessed."""
    best = tosses.scores[SCORES[0]]
    return {
        "there": best[tosses.there][:_SHOWN].tolist(),
        "not there": best[~tosses.there][:_SHOWN].tolist(),
        "guesses": guesses,
        "right": {score: tosses.correct(score, guesses) for score in SCORES},
    }
