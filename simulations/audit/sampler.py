"""S, sampler: who took part in a step, read off the delta.

Every patient is a canary, so a delta without noise says how often each took part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.auditing import sampler
from common.auditing.outcome import Outcome, judge
from common.metrics import Bools
from simulations.audit.experiments import Experiment, Seen
from simulations.audit.rig import rig
from simulations.audit.sources import Coupled, Silenced
from simulations.audit.subject import Subject, stream

_MOST = 1e6  # an engine without a clip goes further


@dataclass(frozen=True)
class Samples:
    """Who took part in what.

    Attributes:
        generator: 'secure' or 'seeded'.
        chosen: Who was in the sample of each release of one step, (releases, patients) bool.
        counts: In how many samples of such a release a patient was, (releases, patients).
    """

    generator: str
    chosen: Bools
    counts: NDArray[np.int64]


def samples_of(
    subject: Subject, *, generator: str, releases: int, count: int, seed: int
) -> Samples:
    """Return who took part in each of so many releases of one step.

    Args:
        subject: What is audited.
        generator: 'secure' or 'seeded'.
        releases: How many.
        count: How many patients there are.
        seed: Of weights and seeded streams.
    """
    made = rig(subject, canaries=count, others=0, steps=1, most_steps=1, seed=seed)
    counts = np.empty((releases, count), dtype=np.int64)
    for release in range(releases):
        source = Silenced(stream(generator, "audit", "sampler", release, seed=seed))
        counts[release] = _rounded(made.read(made.bench.total(made.part, source)))
    return Samples(generator, counts > 0, counts)


def steps_taken(subject: Subject, *, steps: int, count: int, seed: int) -> int:
    """Return in how many sums of one release a patient is who is in whenever there is one.

    Args:
        subject: What is audited.
        steps: Of the release, by the plan.
        count: How many patients there are; the median speaks for all.
        seed: Of the weights.
    """
    made = rig(subject, canaries=count, others=0, steps=steps, most_steps=steps, seed=seed)
    everyone = made.bench.total(made.part, Coupled(seed, amplitude=0.0))
    return int(np.median(_rounded(made.read(everyone))))


def _rounded(found: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(np.clip(np.nan_to_num(found), -_MOST, _MOST)).astype(np.int64)


def sampled(
    subject: Subject, *, generator: str, releases: int, patients: int, seed: int
) -> Experiment:
    """S: who is in the samples."""
    whats = ("sampling rate", "batch sizes", "patient counts", "most sampled", "next batch")
    names = [f"S {generator}: {what}" for what in whats]
    exact = (f"S {generator}: once a step", f"S {generator}: steps")
    steps = subject.plan.study.learner.local_steps

    def carry_out(level: float, seen: Seen) -> list[Outcome]:
        found = samples_of(
            subject, generator=generator, releases=releases, count=patients, seed=seed
        )
        sizes, who = found.chosen.sum(axis=1).astype(np.float64), found.chosen
        seen.sizes = np.concatenate([seen.sizes, sizes])
        seen.patients = patients
        seen.evidence[f"S {generator}"] = {"sizes": sizes.tolist(), "patients": patients}
        rate, most = subject.rate, int(np.abs(found.counts).max())
        taken = steps_taken(subject, steps=steps, count=20, seed=seed)
        once = f"a patient was in a step's sum {most} times"
        return [
            sampler.mean(sizes, patients=patients, rate=rate, p=level, name=names[0]),
            sampler.dispersion(sizes, patients=patients, rate=rate, p=level, name=names[1]),
            sampler.per_patient(who, rate=rate, p=level, name=names[2]),
            sampler.most_sampled(who, rate=rate, p=level, name=names[3]),
            sampler.independence(who, rate=rate, p=level, name=names[4]),
            judge(exact[0], statistic=most, threshold=1.0, detail=once),
            sampler.steps(taken=taken, accounted=subject.sums(steps), name=exact[1]),
        ]

    return Experiment(f"sampler, {generator}", tuple(names), exact, carry_out)
