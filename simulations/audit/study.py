"""The audit of a study as it would run: its own plan, at hospitals as a simulation has them.

Canaries are dealt over the hospitals, beside each one's own training patients, under every seed
anew. A patient of one hospital is no patient of another, so all hospitals of all seeds together are
one mechanism on disjoint parts, with the same promise to each canary: one game with all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.auditing.outcome import Audit, Outcome, judge_bound
from common.cohort.parts import Part
from common.plan import compile_study
from common.privacy.accounting import epsilon
from common.seeds import derive
from common.study import Study
from simulations.audit.canaries import BOUNDS, SCORES, Tosses, evidence_of, tosses_of
from simulations.audit.engine import (
    Effort,
    Way,
    carry_out,
    described,
    from_measurements,
    of_way,
    sums_of,
)
from simulations.audit.experiments import Experiment, Seen
from simulations.audit.sampler import sampled
from simulations.audit.subject import Subject
from simulations.audit.transcript import transcript
from simulations.world import scenario_of, world_of

_CANARIES, _OF_IMAGES = 4000, 1000  # of one seed, over all hospitals
_SHARES = (10, 5, 2, 1)  # one guess for so many canaries
_RECORDS = 2  # of an invented patient, where the study takes several


def audit_study(
    study: Study,
    *,
    seeds: int,
    canaries: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Audit, dict[str, Any]]:
    """Audit a study; return the audit and the plain values of its page.

    Args:
        study: With its simulation table and where its data lie.
        seeds: How often the hospitals are dealt their canaries; more raise the ceiling.
        canaries: Of one seed; fewer of images by default.
        tell: Is told what is being done.

    Raises:
        GrandroundsError: the study or its data do not fit, or it promises nothing.
    """
    plan = compile_study(study)
    subject, first = Subject(plan), scenario_of(study).seed
    is_image = len(plan.study.cohort.input_shape) > 1
    count = canaries or (_OF_IMAGES if is_image else _CANARIES)
    records = min(plan.study.cohort.max_records, _RECORDS)
    way = Way("the study's way", subject, records, 4 if is_image else 50)
    effort = Effort(
        canaries=count * seeds,
        samples=30 if is_image else 100,
        patients=200,
        generators=("secure",),
        sites=False,
    )
    price = epsilon([subject.mechanism(sums_of(subject))], delta=plan.delta)
    sample = {"releases": effort.samples, "patients": effort.patients, "seed": first}
    experiments = [
        *of_way(way, effort, first),
        transcript(subject, records=records, seed=first),
        sampled(subject, generator="secure", **sample),
        at_hospitals(study, subject, claimed_epsilon=price, count=count, seeds=seeds),
        from_measurements(subject, claimed_epsilon=price, count=sums_of(subject)),
    ]
    found = carry_out(
        experiments, claimed_epsilon=plan.epsilon, delta=plan.delta, p=effort.p, tell=tell
    )
    values = {
        **found.audit.to_json(),
        **described([way], effort, seed=first, evidence=found.evidence),
        "kind": "study",
        "title": study.title or study.name,
        "study": study.name,
        "study_digest": plan.digest,
        "seeds": seeds,
    }
    return found.audit, values


def at_hospitals(
    study: Study, subject: Subject, *, claimed_epsilon: float, count: int, seeds: int
) -> Experiment:
    """C: lower bounds of epsilon from canaries at the study's hospitals."""
    names = {(s, b): f"C canaries: {s}, {b}" for s in SCORES for b in BOUNDS}

    def play(level: float, seen: Seen) -> list[Outcome]:
        tosses, outcomes = _tosses(study, subject, count, seeds), []
        total, delta, guesses = len(tosses.there), subject.plan.delta, 0
        for (score, bound), name in names.items():
            game: dict[str, Any] = {"canaries": total, "delta": delta, "p": level}
            guesses, ceiling = guesses_for(bound, claimed_epsilon=claimed_epsilon, **game)
            seen.ceiling = max(seen.ceiling, ceiling)
            right = tosses.correct(score, guesses)
            lower = BOUNDS[bound].lower_bound(guesses=guesses, correct=right, **game)
            outcome = judge_bound(name, lower=lower, claimed_epsilon=claimed_epsilon)
            words = outcome.detail if lower > 0 else "it shows nothing"
            words += f"; {right} of {guesses} guesses right, ceiling {ceiling:.3g}"
            if ceiling > 0:
                seen.bounds[name] = lower
            else:  # a bound of 0 would be no finding
                words = "it could have shown nothing here: its ceiling is 0"
            outcomes.append(replace(outcome, detail=words))
        seen.evidence["C"] = evidence_of(tosses, guesses)
        return outcomes

    return Experiment("canaries", tuple(names.values()), (), play)


def guesses_for(
    bound: str, *, canaries: int, delta: float, p: float, claimed_epsilon: float
) -> tuple[int, float]:
    """Return how many guesses to make, fixed before looking, and the ceiling that they have.

    The surest guesses say most, so as few as let the ceiling reach the claim; where none does, as
    many as have the highest. With few guesses and a large delta no epsilon at all can be refuted:
    the p-value is never below 2 m delta / r.

    >>> guesses_for("f-DP", canaries=4000, delta=3e-4, p=.01 / 6, claimed_epsilon=1.0)[0]
    400
    >>> guesses_for("one run", canaries=4000, delta=3e-4, p=.01 / 6, claimed_epsilon=1.0)[0]
    4000
    """
    found = []
    for share in _SHARES:
        guesses = max(1, canaries // share)
        ceiling = BOUNDS[bound].ceiling(canaries=canaries, guesses=guesses, delta=delta, p=p)
        if ceiling >= claimed_epsilon:
            return guesses, ceiling
        found.append((ceiling, guesses))
    ceiling, guesses = max(found)
    return guesses, ceiling


def _tosses(study: Study, subject: Subject, count: int, seeds: int) -> Tosses:
    """Return the canaries of all hospitals under all seeds, as of one game."""
    first = scenario_of(study).seed
    every = [
        tosses_of(
            subject,
            canaries=own,
            others=part,
            releases=sums_of(subject),
            generator="secure",
            records=int(torch.bincount(part.patient, minlength=1).max()),
            seed=derive(seed, name, "audit"),
        )
        for seed in range(first, first + seeds)
        for name, part, own in _dealt(study, seed, count)
    ]
    scores = {s: np.concatenate([tosses.scores[s] for tosses in every]) for s in SCORES}
    return Tosses(np.concatenate([tosses.there for tosses in every]), scores)


def _dealt(study: Study, seed: int, count: int) -> Iterator[tuple[str, Part, int]]:
    """Yield each hospital with its training patients and how many canaries join them."""
    with tempfile.TemporaryDirectory() as scratch:  # a partition's files are patients
        cohorts = world_of(study, scenario_of(study), Path(scratch), seed).cohorts
    each, rest = divmod(count, len(cohorts))
    for number, (name, cohort) in enumerate(cohorts.items()):
        own = each + (number < rest)
        if own:
            yield name, cohort.train, own
