"""What an audit is about: a plan, and the engine that takes its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from client.agent import Agent
from common.alignment import KNOWN, PRODUCTS, SUMS
from common.architectures import Shape
from common.cohort.parts import Part
from common.errors import StudyError
from common.learners import learner_for
from common.learners.types import Adapt, Patients
from common.models import Classifier, beside, made, params_of, pick_device
from common.params import Params
from common.plan import Plan
from common.privacy.engine import PrivateModel
from common.privacy.events import PoissonGaussian
from common.privacy.noise import SecureSource, SeededSource, Source
from common.seeds import derive

GENERATORS = ("secure", "seeded")


def _adapt(plan: Plan) -> Adapt:
    return learner_for(plan).adapt


def _agent(folder: Path) -> Agent:
    return Agent(folder, durable=False)


@dataclass(frozen=True)
class Subject:
    """An engine under audit; a broken one, in a test, differs in one of the three callables.

    An audit sees the sums that reach the delta: every step of most learners, and of those with a
    query the query's. There all patients are on the query's side; the inner steps then move the
    weights by noise alone, and `simulations.audit.transcript` looks at them.

    Attributes:
        plan: As it would run.
        device: Where the model is to be.
        adapt_for: Plan -> what adapts the shared weights to a hospital.
        private: Module -> what yields clipped sums.
        agent: A site's folder -> the agent that answers for it.

    Raises:
        StudyError: the plan promises nothing, its unit is no patient, or its outcome no class.
    """

    plan: Plan
    device: str = "cpu"
    adapt_for: Callable[[Plan], Adapt] = _adapt
    private: Callable[[nn.Module], PrivateModel] = PrivateModel
    agent: Callable[[Path], Agent] = _agent

    def __post_init__(self) -> None:
        """Refuse what no experiment here could speak about."""
        if not self.plan.private:
            raise StudyError(
                f"study {self.plan.study.name!r} has no privacy table: it promises nothing",
                remedy="add [privacy] with sigma or epsilon, delta and clip",
            )
        self.plan.study.check_has_classes("audit")
        if self.plan.adjacency != "add_remove":
            raise StudyError(
                f"learner.meta.unit of study {self.plan.study.name!r} is 'episode', and the "
                "experiments add or remove a patient",
                remedy="audit it with learner.meta.unit = 'patient'",
            )

    @property
    def sigma(self) -> float:
        """Noise multiplier of the sums that reach the delta."""
        return self.plan.query_sigma if self.has_query else self.plan.sigma

    @property
    def scale(self) -> float:
        """Return sigma C: the noise claimed, on such a sum."""
        return self.sigma * self.plan.clip

    @property
    def rate(self) -> float:
        """The sampling rate q."""
        return self.plan.study.learner.sampling_rate

    @property
    def has_query(self) -> bool:
        """Whether a delta holds the query's sum alone."""
        return self.plan.study.learner.has_query

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.plan.study.cohort.label.classes)

    def sums(self, steps: int) -> int:
        """Return how many sums reach the delta of so many local steps."""
        return 1 if self.has_query else steps

    def mechanism(self, count: int) -> PoissonGaussian:
        """Return what so many such sums are accounted as."""
        return PoissonGaussian(self.sigma, self.rate, count, "train")

    def module(self, *, extra: int = 0, seed: int = 0) -> Classifier:
        """Return the plan's model, which takes so many inputs more as one row."""
        study = self.plan.study
        shape: Shape = study.cohort.input_shape
        if extra:
            shape = (int(np.prod(shape)) + extra,)
        weights, metric = derive(seed, "audit", "weights"), study.learner.metric
        model = made(study.model, shape, self.classes, seed=weights, metric=metric)
        return model.to(pick_device(self.device))

    def bench(
        self,
        module: nn.Module,
        *,
        steps: int,
        step: float,
        declared: int,
        references: bool = False,
    ) -> Bench:
        """Return the engine ready to take `steps` steps of length `step` for each unit of a sum.

        The steps of a learned space are under the references that the module has, which a round
        would release first: a patient more moves those too, and all steps after them. With
        `references` it does, and a transcript looks at them. Problems that a round draws are left
        out: a step on one is a step on fewer patients.

        The learning rate is what turns the noisy sum into a step: post-processing, which an audit
        may choose as it likes. Everything that is paid for stays as in the plan.
        """
        learner, share = self.plan.study.learner, 1.0
        # Altered copies are of pictures, and what an audit hands in are rows.
        changes: dict[str, Any] = {"local_steps": steps, "augmentation": None, "task": None}
        if not references:
            changes["metric"] = None
        if learner.head_steps is not None:
            changes["head_steps"] = 1  # they move what stays; a transcript looks at them
        if self.has_query and learner.meta is not None:
            share = learner.meta.query_fraction
            changes["meta"] = learner.meta.model_copy(update={"pool": "parted"})
        changes["learning_rate"] = step * self.plan.denominator(declared, share=share)
        if learner.metanet is not None:
            changes["metanet"] = learner.metanet.model_copy(update={"rate": 1.0})
        study = self.plan.study.model_copy(update={"learner": learner.model_copy(update=changes)})
        adapt, own = self.adapt_for(replace(self.plan, study=study)), beside(study, module)
        theta = {**own, **params_of(module)}
        moved = [k for k, p in module.named_parameters() if p.requires_grad]
        trained = {k: theta[k] for k in (*own, *moved)}
        # Moments leave beside the weights, with noise of another scale: a transcript looks at them.
        weights = {k: v for k, v in trained.items() if k not in (SUMS, PRODUCTS, KNOWN)}
        leaves = tuple(learner_for(self.plan).shared(weights))
        return Bench(self.private(module), theta, adapt, step, declared, leaves)


@dataclass(frozen=True)
class Bench:
    """An engine set up: its model, the shared weights, and how far one step moves them.

    Attributes:
        model: What yields clipped sums.
        theta: The shared weights.
        adapt: The learner's own.
        step: How far a sum of length 1 moves the weights.
        declared: The public count of all patients.
        leaves: Names of the weights that leave a hospital.
    """

    model: PrivateModel
    theta: Params
    adapt: Adapt
    step: float
    declared: int
    leaves: tuple[str, ...]

    def total(self, part: Part, source: Source, *, theta: Params | None = None) -> Params:
        """Return what the steps added up: minus what leaves in units of a step, float64."""
        weights = self.theta if theta is None else theta
        delta = self.adapt(self.model, weights, Patients(part, self.declared), source)
        kept = self.theta.keys() - set(self.leaves)
        return {k: v.double() / -self.step for k, v in delta.items() if k not in kept}


def stream(generator: str, *names: str | int, seed: int) -> Source:
    """Return the stream of one release, as a site's agent would make it."""
    return SecureSource() if generator == "secure" else SeededSource(derive(seed, *names))


def patients(shape: Shape, *, count: int, records: int, classes: int, seed: int) -> Part:
    """Return invented patients with so many records each, all of them on a query's side."""
    rng = np.random.default_rng(derive(seed, "audit", "patients"))
    rows = count * records
    return Part(
        torch.from_numpy(rng.standard_normal((rows, *shape)).astype(np.float32)),
        torch.from_numpy(rng.integers(0, classes, rows)),
        torch.arange(count).repeat_interleave(records),
        count,
        torch.zeros(count, 2, dtype=torch.float64),
    )
