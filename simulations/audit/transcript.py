"""A, the transcript: every answer that a round rests on, with and without one patient.

A delta of a learner with a query shows the query alone; the inner steps and the Hessian-vector
products before and after it are paid for too. So the model that is handed to the learner keeps what
it answered, and the second hospital's is made to give the first one's answers: both then stand at
the same weights at every query, and what one patient changes of an answer is what the noise on it
has to hide. How large that noise is shows in where the next query is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from common.alignment import KNOWN
from common.auditing.outcome import Outcome, judge
from common.cohort.parts import Part, join
from common.learners.types import Patients
from common.params import flatten
from common.privacy.engine import PrivateModel
from simulations.audit.experiments import Experiment, Seen
from simulations.audit.replay import KINDS
from simulations.audit.scripted import Answer, Kept, Scripted
from simulations.audit.sources import Coupled, Recorded
from simulations.audit.subject import Subject, patients
from simulations.audit.transcript_noise import TOLERANCE, off_scale

_CROWD = 6
_MANY = 200  # of whom samples are drawn
_SMALL = 1e-6  # how far a sum moves the weights there
_SIDES = {"query": 0.0, "support": 1 - 2.0**-53}
_MOST_STEPS = 3


@dataclass(frozen=True)
class Moved:
    """How far one patient moved the answers of one round.

    Attributes:
        kind: Of patient, and on which side.
        change: The largest change of an answer, in units of its clip.
        unnoised: Answers without noise of the claimed size.
    """

    kind: str
    change: float
    unnoised: int


def transcripts(subject: Subject, *, records: int, seed: int) -> Iterator[Moved]:
    """Yield what each kind of patient changed, on either side of the query."""
    module = subject.module(seed=seed)
    usual: dict[str, Any] = {"records": records, "classes": subject.classes}
    crowd = patients(module.input_shape, count=_CROWD, seed=seed, **usual)
    assert crowd.draws is not None
    crowd = replace(crowd, draws=torch.arange(_CROWD)[:, None].expand(-1, 2) % 2 * 0.999)
    extra = patients(module.input_shape, count=1, seed=seed + 1, **usual)
    script, _ = _run(subject, crowd, seed=seed, script=None)
    for side, draw in _SIDES.items():
        for kind, change in KINDS.items():
            for label in (0, subject.classes - 1):
                x = change(extra.x)
                y, who = torch.full((len(x),), label), torch.zeros(len(x), dtype=torch.int64)
                own = Part(x, y, who, 1, torch.full((1, 2), draw, dtype=torch.float64))
                found, bare = _run(subject, join([crowd, own]), seed=seed, script=script)
                yield _compared(script, found, bare, f"{kind}, {side}")


def _run(
    subject: Subject, part: Part, *, seed: int, script: list[Answer] | None
) -> tuple[list[Answer], int]:
    """Return the answers of one round, and how many of them lack noise of the claimed size."""
    steps = min(subject.plan.study.learner.local_steps, _MOST_STEPS)
    step = 1.0 / (subject.scale * _CROWD)  # noise moves the weights by a length that shows
    module = subject.module(seed=seed)
    bench = subject.bench(module, steps=steps, step=step, declared=_CROWD, references=True)
    model, source = Scripted(bench.model, script), Kept(seed)
    theta = bench.theta
    if KNOWN in theta:  # as after a first round: features are drawn to where pooled ones lay
        theta = {**theta, KNOWN: torch.ones_like(theta[KNOWN])}
    delta = bench.adapt(cast(PrivateModel, model), theta, Patients(part, _CROWD), source)
    answers, normals = model.answers, np.concatenate([np.empty(0), *source.drawn])
    sizes = [sum(v.numel() for v in answer.total.values()) for answer in answers]
    if normals.size != sum(sizes):
        return answers, math.ceil(abs(sum(sizes) - normals.size) / max([*sizes, 1]))
    noise = torch.split(torch.from_numpy(normals), sizes)
    return answers, off_scale(subject, bench, script or answers, answers, noise, delta)


def samples_off(subject: Subject, *, seed: int) -> float:
    """Return by how many patients a sample is not the one that its own coins chose.

    A step's coins are one call for uniforms, one for each patient of its side; a patient is in
    where the coin is below q. Products are about the very sample of their step: infinity if not.
    """
    module = subject.module(seed=seed)
    crowd = patients(module.input_shape, count=_MANY, records=1, classes=subject.classes, seed=seed)
    crowd = replace(crowd, draws=torch.arange(_MANY)[:, None].expand(-1, 2) % 2 * 0.999)
    steps = min(subject.plan.study.learner.local_steps, _MOST_STEPS)
    bench = subject.bench(module, steps=steps, step=_SMALL, declared=_MANY, references=True)
    model, source = Scripted(bench.model), Recorded(Coupled(seed, everyone=None))
    bench.adapt(cast(PrivateModel, model), bench.theta, Patients(crowd, _MANY), source)
    of_everybody = [answer.batch.patients for answer in model.answers if answer.is_moments]
    if any(count != _MANY for count in of_everybody):
        return math.inf
    answers = [answer for answer in model.answers if not answer.is_moments]
    sums = [answer.batch for answer in answers if not answer.is_product]
    products = [answer.batch for answer in answers if answer.is_product]
    if products and [id(b) for b in products] != [id(b) for b in reversed(sums[:-1])]:
        return math.inf
    if subject.rate < 1:
        chosen = [int((drawn < subject.rate).sum()) for drawn in source.uniforms]
    else:
        side = _MANY // 2 if subject.has_query else _MANY
        chosen = [side] * len(sums)
    if len(chosen) != len(sums):
        return math.inf
    return float(max(abs(b.patients - n) for b, n in zip(sums, chosen, strict=True)))


def _compared(before: list[Answer], after: list[Answer], unnoised: int, kind: str) -> Moved:
    if len(before) != len(after):
        return Moved(kind, math.inf, unnoised)
    shares = [
        float((flatten(a.total).double() - flatten(b.total).double()).norm()) / a.clip
        if a.clip == b.clip
        else math.inf
        for a, b in zip(before, after, strict=True)
    ]
    return Moved(kind, max(s if math.isfinite(s) else math.inf for s in shares), unnoised)


def transcript(subject: Subject, *, records: int, seed: int) -> Experiment:
    """A: one patient more or less, at every query of a round."""
    names = ("A transcript: clip", "A transcript: noise", "A transcript: samples")

    def carry_out(level: float, seen: Seen) -> list[Outcome]:
        found = list(transcripts(subject, records=records, seed=seed))
        worst = max(found, key=lambda m: m.change)
        bare = max(found, key=lambda m: m.unnoised)
        off = samples_off(subject, seed=seed)
        seen.evidence["A transcript"] = [
            {"patient": m.kind, "change": m.change if math.isfinite(m.change) else None}
            for m in found
        ]
        seen.sensitivity = max(seen.sensitivity, worst.change)
        return [
            judge(
                names[0],
                statistic=worst.change,
                threshold=1 + TOLERANCE,
                detail=f"a patient ({worst.kind}) moved an answer by {worst.change:.4g} clips",
            ),
            judge(
                names[1],
                statistic=float(bare.unnoised),
                threshold=0.0,
                detail=f"{bare.unnoised} answers of a round without noise of the claimed size",
            ),
            judge(
                names[2],
                statistic=off,
                threshold=0.0,
                detail=f"a sample had {off:g} patients more or fewer than its coins chose"
                if math.isfinite(off)
                else "samples were not drawn once a step, or products were about another sample",
            ),
        ]

    return Experiment("transcript of a round", (), names, carry_out)
