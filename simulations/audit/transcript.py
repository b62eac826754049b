"""A, the transcript: every answer that a round rests on, with and without one patient.

A delta of a learner with a query shows the query alone; the inner steps and the Hessian-vector
products before and after it are paid for too. So the model that is handed to the learner keeps what
it answered, and the second hospital's is made to give the first one's answers: both then stand at
the same weights at every query, and what one patient changes of an answer is what the noise on it
has to hide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from common.auditing.outcome import Outcome, judge
from common.cohort.parts import Part, join
from common.learners.types import Patients
from common.params import Params, flatten
from common.privacy.engine import PrivateModel
from simulations.audit.experiments import Experiment, Seen
from simulations.audit.replay import KINDS
from simulations.audit.sources import Coupled
from simulations.audit.subject import Subject, patients

_CROWD = 6
_SIDES = {"query": 0.0, "support": 1 - 2.0**-53}
_MOST_STEPS = 3
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Answer:
    """What a model answered, and the clip it was asked for."""

    total: Params
    clip: float


class Scripted:
    """A model that keeps its answers, and gives others if it has a script.

    Args:
        model: The audited engine's.
        script: What to answer in place of its own; None for its own answers.
    """

    def __init__(self, model: PrivateModel, script: list[Answer] | None = None) -> None:
        self.answers: list[Answer] = []
        self._model, self._script = model, script

    def __getattr__(self, name: str) -> Any:
        """Return what is not asked of patients."""
        return getattr(self._model, name)

    def clipped_sum(self, *args: Any, clip: float, **more: Any) -> Params:
        """Return the clipped sum, or the script's."""
        return self._answer(self._model.clipped_sum(*args, clip=clip, **more), clip)

    def clipped_products(self, *args: Any, clip: float, **more: Any) -> Params:
        """Return the clipped products, or the script's."""
        return self._answer(self._model.clipped_products(*args, clip=clip, **more), clip)

    def _answer(self, total: Params, clip: float) -> Params:
        self.answers.append(Answer(total, clip))
        return total if self._script is None else self._script[len(self.answers) - 1].total


@dataclass(frozen=True)
class Moved:
    """How far one patient moved the answers of one round.

    Attributes:
        kind: Of patient, and on which side.
        change: The largest change of an answer, in units of its clip.
        unnoised: Answers more than noise vectors of the weights' size.
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
                found, normals = _run(subject, join([crowd, own]), seed=seed, script=script)
                yield _compared(script, found, normals, f"{kind}, {side}")


def _run(
    subject: Subject, part: Part, *, seed: int, script: list[Answer] | None
) -> tuple[list[Answer], float]:
    """Return the answers of one round, and how many noise vectors of their size were drawn."""
    steps = min(subject.plan.study.learner.local_steps, _MOST_STEPS)
    step = 1.0 / (subject.scale * _CROWD)  # noise moves the weights by a length that shows
    bench = subject.bench(subject.module(seed=seed), steps=steps, step=step, declared=_CROWD)
    model, source = Scripted(bench.model, script), Coupled(seed)
    bench.adapt(cast(PrivateModel, model), bench.theta, Patients(part, _CROWD), source)
    return model.answers, source.normals / flatten(bench.theta).numel()


def _compared(before: list[Answer], after: list[Answer], normals: float, kind: str) -> Moved:
    unnoised = math.ceil(abs(len(after) - normals))
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
    names = ("A transcript: clip", "A transcript: noise")

    def carry_out(level: float, seen: Seen) -> list[Outcome]:
        found = list(transcripts(subject, records=records, seed=seed))
        worst = max(found, key=lambda m: m.change)
        bare = max(found, key=lambda m: m.unnoised)
        seen.evidence["A transcript"] = [
            {"patient": m.kind, "change": m.change if math.isfinite(m.change) else None}
            for m in found
        ]
        seen.sensitivity = max(seen.sensitivity, worst.change)
        return [
            judge(
                names[0],
                statistic=worst.change,
                threshold=1 + _TOLERANCE,
                detail=f"a patient ({worst.kind}) moved an answer by {worst.change:.4g} clips",
            ),
            judge(
                names[1],
                statistic=float(bare.unnoised),
                threshold=0.0,
                detail=f"{bare.unnoised} answers of a round more or fewer than noise vectors",
            ),
        ]

    return Experiment("transcript of a round", (), names, carry_out)
