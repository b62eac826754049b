"""A, replay: the same randomness with and without one patient. What can one patient change?

The engine runs without and with the patient, each without and with noise. Without noise the
difference is what the patient adds to the clipped sum, at most C. What the noise adds must be the
same whoever is there, nobody included, or the divisor, the noise or the number of steps depends on
patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.auditing.outcome import Outcome, judge
from common.cohort.parts import Part, join
from common.params import Params, flatten
from simulations.audit.experiments import Experiment, Seen
from simulations.audit.sources import Coupled
from simulations.audit.subject import Bench, Subject, patients

_CROWD = 5  # few, so that a divisor that counts one more is off by a fifth
_STEPS = 3  # of the run that counts draws
_SMALL = 1e-3  # how far a unit of noise moves the weights there

KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "1e3 times": lambda x: 1e3 * x,
    "1e6 times": lambda x: 1e6 * x,
    "constant": torch.ones_like,
    "NaN": lambda x: torch.full_like(x, math.nan),
    "infinity": lambda x: torch.full_like(x, math.inf),
    "records 100 times": lambda x: 1e3 * x.repeat(100, *[1] * (x.dim() - 1)),
    "no record": lambda x: x[:0],
}
"""What is done to the records of the patient who is there or not."""
_TOLERANCE = 1e-3  # of a change in units of C, and of the noise: float32 rounds at a millionth


@dataclass(frozen=True)
class Replay:
    """What one patient changed.

    Attributes:
        kind: Of patient.
        others: How many others there were.
        change: Of the clipped sum, in units of C; infinite where a value is not finite.
        noise: Length of what the noise added, in units of the same without the patient and with
            others.
        draws: How many normals more were drawn in several steps.
        failure: What the engine raised, or how its answer does not fit the weights.
    """

    kind: str
    others: int
    change: float
    noise: float
    draws: int
    failure: str = ""


@dataclass(frozen=True)
class _Run:
    """The sum without noise, what noise added to it, and the normals drawn in several steps."""

    total: Params
    noise: float
    draws: int


def replays(subject: Subject, *, records: int, seed: int) -> Iterator[Replay]:
    """Yield what each kind of patient changed, among others and alone, and an empty sample.

    Args:
        subject: What is audited.
        records: How many records each patient has.
        seed: Of patients, weights and streams.
    """
    module = subject.module(seed=seed)
    crowd, extra = (
        patients(
            module.input_shape, count=n, records=records, classes=subject.classes, seed=seed + n
        )
        for n in (_CROWD, 1)
    )
    small = _SMALL / max(subject.scale, subject.plan.clip)
    # A sum after others is taken where these have moved the weights to: hardly, if steps are small.
    is_first = not subject.has_query and subject.plan.study.learner.head_steps is None
    first = 1.0 if is_first else _SMALL * small
    one = subject.bench(module, steps=1, step=first, declared=_CROWD)
    again = subject.module(seed=seed)  # an engine hooks into a model of its own
    several = subject.bench(again, steps=_STEPS, step=small, declared=_CROWD)

    def run(part: Part, *, everyone: bool = True) -> _Run | str:
        return _run(one, several, part, seed=seed, everyone=everyone)

    whole = run(crowd)
    if isinstance(whole, str):
        yield Replay("normal", _CROWD, math.inf, math.inf, 0, whole)
        return
    nobody = run(crowd.select(torch.zeros(0, dtype=torch.int64)))
    unsampled = run(crowd, everyone=False)
    for before, others in ((whole, _CROWD), (nobody, 0)):
        for kind, change in KINDS.items():
            for label in (0, subject.classes - 1):  # what one loses nothing on, another does
                own = _with_records(extra, change(extra.x), label)
                after = _kept_going(run, join([crowd, own]) if others else own)
                yield _compared(before, after, whole, kind, others, subject.plan.clip)
    yield _compared(whole, unsampled, whole, "nobody sampled", _CROWD, math.inf)


def _with_records(patient: Part, x: Tensor, label: int) -> Part:
    y = torch.full((len(x),), label)
    return Part(x, y, torch.zeros(len(x), dtype=torch.int64), 1, patient.draws)


def _run(one: Bench, several: Bench, part: Part, *, seed: int, everyone: bool) -> _Run | str:
    """Return what came of it, or in words how it does not fit."""
    quiet, loud, longer = (
        Coupled(seed, everyone=everyone, amplitude=amplitude) for amplitude in (0.0, 1.0, 1.0)
    )
    total, noisy = one.total(part, quiet), one.total(part, loud)
    several.total(part, longer)
    if {k: v.shape for k, v in total.items()} != {k: one.theta[k].shape for k in one.leaves}:
        return "names or shapes of the delta are not those of the weights"
    noise = float((flatten(noisy) - flatten(total)).norm())
    return _Run(total, noise, longer.normals)


def _kept_going(run: Callable[[Part], _Run | str], part: Part) -> _Run | str:
    """Run with a patient more, who may not make an engine stop that runs without."""
    try:
        return run(part)
    except Exception as error:  # what goes wrong in an engine may be of any type
        return f"the engine stopped: {type(error).__name__}: {error}".splitlines()[0]


def _compared(
    before: _Run | str, after: _Run | str, usual: _Run, kind: str, others: int, clip: float
) -> Replay:
    failure = next((run for run in (before, after) if isinstance(run, str)), None)
    if isinstance(before, str) or isinstance(after, str):
        return Replay(kind, others, math.inf, math.inf, 0, str(failure))
    change = float((flatten(after.total) - flatten(before.total)).norm()) / clip
    noise = after.noise / usual.noise if usual.noise > 0 else math.nan
    return Replay(
        kind,
        others,
        change if math.isfinite(change) else math.inf,
        noise if math.isfinite(noise) else math.inf,
        after.draws - before.draws,
    )


def replay(subject: Subject, way: str, *, records: int, seed: int) -> Experiment:
    """A: one patient more or less, of every kind, under the same randomness."""
    names = tuple(f"A {way}: {what}" for what in ("clip", "noise and divisor", "draws"))

    def carry_out(level: float, seen: Seen) -> list[Outcome]:
        found = list(replays(subject, records=records, seed=seed))
        seen.evidence[f"A {way}"] = [
            {
                "patient": r.kind,
                "others": r.others,
                "change": r.change if math.isfinite(r.change) else None,
            }
            for r in found
        ]
        seen.sensitivity = max(seen.sensitivity, *(r.change for r in found))
        off = [abs(r.noise - 1) for r in found]
        draws = [float(abs(r.draws)) for r in found]
        worst = [int(np.argmax(v)) for v in ([r.change for r in found], off, draws)]
        change, other, draw = (found[i] for i in worst)
        words = (
            change.failure or f"a patient ({change.kind}) moved the sum by {change.change:.4g} C",
            other.failure
            or f"with a patient ({other.kind}) more, noise is {other.noise:.4g} times as large",
            f"a patient ({draw.kind}) changed how many normals are drawn by {draw.draws}",
        )
        statistics = (change.change, off[worst[1]], draws[worst[2]])
        limits = (1 + _TOLERANCE, _TOLERANCE, 0.0)
        return [
            judge(n, statistic=s, threshold=t, detail=d)
            for n, s, t, d in zip(names, statistics, limits, words, strict=True)
        ]

    return Experiment(f"replay, {way}", (), names, carry_out)
