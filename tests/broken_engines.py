"""Sixteen engines that are broken as published ones were, each with the test that must find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from client.agent import Agent
from client.ledger import Key, Ledger
from common.cohort.parts import Part
from common.learners import learner_for
from common.learners.inner import draw, noisy_sum
from common.learners.types import Adapt, Patients
from common.params import Params, add, subtract, unflatten
from common.plan import Plan, compile_study
from common.privacy.engine import PrivateModel
from common.privacy.noise import Floats, SeededSource, Source
from common.seeds import derive
from common.study import Clipping, parse_study
from common.wire import Envelope
from simulations.audit.engine import Effort, Way
from simulations.audit.subject import Subject

ONE, TWO = "one record", "two records"

SMALL = Effort(
    canaries=0, samples=60, patients=200, generators=("secure",), sites=False, measured=False
)
"""Enough for a fault; no canaries and no price, which take the most time."""


def small_subject(records: int = 1, learner: str = "reptile") -> Subject:
    """Return the sound engine on a small network; a hundred steps at sigma 1."""
    study = {
        "name": "small-audit",
        "cohort": {
            "patient": "patient",
            "max_records": records,
            "train_fraction": 0.5,
            "label": {"classes": ["well", "ill"]},
            "features": [{"name": f"input{i}", "range": [-1, 1]} for i in range(8)],
        },
        "model": {"name": "mlp", "hidden": [8]},
        "learner": {
            "name": learner, "local_steps": 4, "learning_rate": 0.1, "sampling_rate": 0.05,
        },
        "rounds": {"count": 25},
        "privacy": {"sigma": 1.0, "delta": 1e-5, "clip": 1.0},
    }  # fmt: skip
    return Subject(compile_study(parse_study(study, origin="a test")))


class Combined(PrivateModel):
    """Sums per-record gradients as a fault would have it."""

    def __init__(self, module: nn.Module, how: Callable[[Tensor, Part, float], Tensor]) -> None:
        super().__init__(module)
        self.module, self.how = module, how

    def clipped_sum(
        self, params: Params, batch: Part, *, clip: float, rule: Clipping = "norm"
    ) -> Params:
        """Return what the fault makes of the records' gradients."""

        def loss(point: Params, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(self.module, point, (x[None],)), y[None])

        if not batch.x.shape[0]:
            return {k: torch.zeros_like(v) for k, v in params.items()}
        found = vmap(grad(loss), in_dims=(None, 0, 0))(params, batch.x, batch.y)
        rows = torch.cat([found[k].flatten(1) for k in params], dim=1)
        return unflatten(self.how(rows, batch, clip), params)


def _clipped(rows: Tensor, clip: float) -> Tensor:
    return rows * (clip / rows.norm(dim=1, keepdim=True)).clamp(max=1)


def _means(rows: Tensor, batch: Part) -> Tensor:
    zeros = torch.zeros(batch.patients, rows.shape[1])
    return zeros.index_add_(0, batch.patient, rows * batch.weights.to(rows)[:, None])


def _no_clip(rows: Tensor, batch: Part, clip: float) -> Tensor:
    return _means(torch.nan_to_num(rows), batch).sum(0)


def _mean_clipped(rows: Tensor, batch: Part, clip: float) -> Tensor:
    mean = _means(torch.nan_to_num(rows), batch).mean(0, keepdim=True)
    return batch.patients * _clipped(mean, clip)[0]


def _nan_let_through(rows: Tensor, batch: Part, clip: float) -> Tensor:
    return _clipped(_means(rows, batch), clip).sum(0)


def _records_one_by_one(rows: Tensor, batch: Part, clip: float) -> Tensor:
    finite = torch.where(torch.isfinite(rows).all(1, keepdim=True), rows, torch.zeros_like(rows))
    return torch.nan_to_num(_clipped(finite, clip)).sum(0)


class BatchNormed(nn.Module):
    """A model whose inputs are normalised over the batch by a function that no layer shows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.body = inner.body

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x, each of which depends on all of x."""
        return self.body(F.batch_norm(x, None, None, training=True) if len(x) > 1 else x)


def _unchecked(module: nn.Module) -> PrivateModel:
    with mock.patch("common.privacy.engine.check_compatible"):
        return PrivateModel(BatchNormed(module), closed_form=False)


class Tampered:
    """A stream with other normals, or other uniforms, than its own."""

    def __init__(
        self,
        source: Source,
        *,
        normal: Callable[[Floats], Floats] = lambda z: z,
        uniform: Callable[[Floats], Floats] = lambda u: u,
    ) -> None:
        self.secure, self._source, self._normal, self._uniform = True, source, normal, uniform

    def uniform(self, n: int) -> Floats:
        """Return n numbers in [0, 1)."""
        return self._uniform(self._source.uniform(n))

    def normal(self, n: int) -> Floats:
        """Return n numbers that ought to be standard normals."""
        return self._normal(self._source.normal(n))


def _tampering(tamper: Callable[[Source, Params], Source], plan: Plan) -> Adapt:
    """Return the sound adaptation under a stream that is tampered with."""

    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        return learner_for(plan).adapt(model, theta, patients, tamper(source, theta))

    return adapt


def _times(factor: float) -> Callable[[Source, Params], Source]:
    return lambda source, theta: Tampered(source, normal=lambda z: factor * z)


def _reused(source: Source, theta: Params) -> Source:
    kept: list[Floats] = []

    def first(z: Floats) -> Floats:
        kept.append(z)
        return kept[0]

    return Tampered(source, normal=first)


def _missing(source: Source, theta: Params) -> Source:
    spared = torch.cat(
        [torch.full((v.numel(),), k != "body.3.weight") for k, v in theta.items()]
    ).numpy()
    return Tampered(source, normal=lambda z: z * spared)


def _shuffled(source: Source, theta: Params) -> Source:
    def ranks(u: Floats) -> Floats:
        return (np.argsort(np.argsort(u)) + 0.5) / max(1, len(u))

    return Tampered(source, uniform=ranks)


def _four_times(plan: Plan) -> Adapt:
    learner = plan.study.learner
    changes = {
        "sampling_rate": 4 * learner.sampling_rate,
        "learning_rate": 4 * learner.learning_rate,
    }
    study = plan.study.model_copy(update={"learner": learner.model_copy(update=changes)})
    return learner_for(replace(plan, study=study)).adapt


def _private_count(plan: Plan) -> Adapt:
    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        counted = Patients(patients.train, max(1, patients.train.patients))
        return learner_for(plan).adapt(model, theta, counted, source)

    return adapt


def _empty_skipped(plan: Plan) -> Adapt:
    def adapt(model: PrivateModel, theta: Params, patients: Patients, source: Source) -> Params:
        step = plan.study.learner.learning_rate / plan.denominator(patients.declared)
        phi = theta
        for _ in range(plan.study.learner.local_steps):
            batch = draw(plan, patients.train, source)
            if batch.patients:
                phi = add(phi, noisy_sum(plan, model, phi, batch, source), scale=-step)
        return subtract(phi, theta)

    return adapt


class Forgetful(Agent):
    """Starts its books anew with every round."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, durable=False)
        self._books = count(1)

    def handle(self, request: Envelope) -> Envelope:
        """Answer from an empty ledger."""
        self._ledger.close()
        self._ledger = Ledger(self.folder / f"ledger{next(self._books)}.sqlite", durable=False)
        return super().handle(request)


class Unnamed(Agent):
    """Derives its seed without the site's name."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, durable=False)

    def _source(self, key: Key) -> Source:
        return SeededSource(derive(1, key.phase, key.round))


@dataclass(frozen=True)
class Fault:
    """A broken engine, by how it differs, and the end of the name of the test that must fail."""

    caught_by: str
    breaks: dict[str, Callable[..., object]]
    way: str = ONE
    sites: bool = False
    releases: int = 20

    @property
    def effort(self) -> Effort:
        """How much must be looked at, at least, to find it."""
        generator = "seeded" if "seeded" in self.caught_by else "secure"
        return replace(SMALL, sites=self.sites, generators=(generator,))

    def ways(self) -> list[Way]:
        """Return the broken engine's ways: the one on which the fault shows."""
        records = 1 if self.way == ONE else 2
        return [
            Way(self.way, replace(small_subject(records), **self.breaks), records, self.releases)
        ]


def _summed(how: Callable[[Tensor, Part, float], Tensor]) -> dict[str, Callable[..., object]]:
    return {"private": partial(Combined, how=how)}


def _drawn(tamper: Callable[[Source, Params], Source]) -> dict[str, Callable[..., object]]:
    return {"adapt_for": partial(_tampering, tamper)}


def sound_ways() -> list[Way]:
    """Return both ways of the sound engine."""
    return [Way(ONE, small_subject(), 1, 20), Way(TWO, small_subject(2), 2, 20)]


FAULTS = {
    "no clip": Fault("A one record: clip", _summed(_no_clip)),
    "clip of the batch mean": Fault("A one record: clip", _summed(_mean_clipped)),
    "noise divided by 10": Fault("B one record, secure: scale", _drawn(_times(0.1))),
    "noise times 0.7": Fault("B one record, secure: scale", _drawn(_times(0.7))),
    # Of 7200 values: six standard deviations beyond the threshold, so it is not missed by chance.
    "noise times 0.9": Fault("B one record, secure: scale", _drawn(_times(0.9)), releases=80),
    "noise reused between steps": Fault("B one record, secure: scale", _drawn(_reused)),
    "noise missing on one tensor": Fault("B one record, secure: scale", _drawn(_missing)),
    "sampled four times as often": Fault("S secure: sampling rate", {"adapt_for": _four_times}),
    "shuffled batches": Fault("S secure: batch sizes", _drawn(_shuffled)),
    "functional BatchNorm": Fault("A one record: clip", {"private": _unchecked}),
    "NaN let through": Fault("A one record: clip", _summed(_nan_let_through)),
    "denominator from the private count": Fault(
        "A one record: noise and divisor", {"adapt_for": _private_count}
    ),
    "empty batch skipped": Fault("A one record: noise and divisor", {"adapt_for": _empty_skipped}),
    "records clipped one by one": Fault(
        "A two records: clip", _summed(_records_one_by_one), way=TWO
    ),
    "accountant restarted each round": Fault(
        "S sites, secure: steps in the ledger", {"agent": Forgetful}, sites=True
    ),
    "seed shared between sites": Fault(
        "B sites, seeded: between sites", {"agent": Unnamed}, sites=True
    ),
}
