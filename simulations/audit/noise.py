"""B, noise: what the engine added to the clipped sum, taken out of the delta.

A stream is recorded while it makes a delta, then played again with its choices of patients and
without its normals: the difference of the two is the noise, whatever the patients were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.auditing import noise
from common.auditing.outcome import Outcome, judge
from common.metrics import Array
from simulations.audit.experiments import Experiment, Seen
from simulations.audit.sources import Quiet, Recorded
from simulations.audit.subject import Subject, patients, stream

_SMALL = 1e-4  # how far a unit of noise moves the weights: later gradients are as good as the same
_COUNT = 40  # patients
_LONGEST = 20_000  # values of a stream that are correlated with another
_SHORTEST = 16


@dataclass(frozen=True)
class Noise:
    """Noise of several releases, in units of what sigma C makes of it: standard normal.

    Attributes:
        generator: 'secure' or 'seeded'.
        tensors: (releases, values) of each tensor.
    """

    generator: str
    tensors: dict[str, Array]

    @property
    def releases(self) -> Array:
        """All tensors beside each other, (releases, values)."""
        return np.concatenate(list(self.tensors.values()), axis=1)


def noise_of(
    subject: Subject,
    *,
    generator: str,
    steps: int,
    releases: int,
    count: int,
    records: int,
    seed: int,
) -> Noise:
    """Return the noise that the engine adds.

    Args:
        subject: What is audited.
        generator: 'secure' or 'seeded': which stream every release gets a fresh one of.
        steps: Of each release.
        releases: How many.
        count: How many patients there are.
        records: Of each patient.
        seed: Of patients, weights and seeded streams.
    """
    module = subject.module(seed=seed)
    part = patients(
        module.input_shape, count=count, records=records, classes=subject.classes, seed=seed
    )
    bench = subject.bench(module, steps=steps, step=_SMALL / subject.scale, declared=count)
    scale = subject.scale * subject.sums(steps) ** 0.5
    found: dict[str, list[Array]] = {name: [] for name in bench.leaves}
    for release in range(1, releases + 1):
        recorded = Recorded(stream(generator, "audit", "train", release, seed=seed))
        noisy = bench.total(part, recorded)
        quiet = bench.total(part, Quiet(recorded))
        for name, values in found.items():
            values.append(((noisy[name] - quiet[name]) / scale).flatten().numpy())
    return Noise(generator, {name: np.stack(values) for name, values in found.items()})


def added_noise(
    subject: Subject, way: str, *, generator: str, records: int, releases: int, seed: int
) -> Experiment:
    """B: what was added to the clipped sums."""
    whats = ("scale", "shape", "autocorrelation", "between rounds", "between tensors")
    names = [f"B {way}, {generator}: {what}" for what in whats]
    steps = subject.plan.study.learner.local_steps

    def carry_out(level: float, seen: Seen) -> list[Outcome]:
        found = noise_of(
            subject,
            generator=generator,
            steps=steps,
            releases=releases,
            count=_COUNT,
            records=records,
            seed=seed,
        )
        every = found.releases
        rounds = {f"round {i + 1}": v[:_LONGEST] for i, v in enumerate(every)}
        wide = {k: v for k, v in found.tensors.items() if v.shape[1] >= _SHORTEST}
        width = min((v.shape[1] for v in wide.values()), default=0)
        tensors = {k: v[:, : min(width, _LONGEST // releases)] for k, v in wide.items()}
        if not seen.noise.size:
            seen.noise = every.reshape(-1)
        seen.evidence[f"B {way}, {generator}"] = _quantiles(every)
        return [
            noise.deviation({**found.tensors, "all": every}, p=level, name=names[0]),
            noise.shape({"all": every}, p=level, name=names[1]),
            noise.autocorrelation(rounds, p=level, name=names[2]),
            noise.correlation(rounds, p=level, shifts=True, name=names[3]),
            _between(tensors, p=level, name=names[4]),
        ]

    return Experiment(f"noise, {way}, {generator}", tuple(names), (), carry_out)


def _between(tensors: dict[str, Array], *, p: float, name: str) -> Outcome:
    if len(tensors) < 2:
        words = "one tensor is long enough: nothing to compare"
        return judge(name, statistic=0.0, threshold=0.0, detail=words)
    return noise.correlation(tensors, p=p, name=name)


def _quantiles(values: Array) -> dict[str, Any]:
    at = (np.arange(199) + 1) / 200
    return {"at": at.tolist(), "values": np.quantile(values, at).tolist(), "count": values.size}
