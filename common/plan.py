"""A study compiled: every number of the promise fixed, and the digest that stands for all of it.

The plan is what a hospital approves. It fixes sigma, the sampling rate, the steps and the rounds
before anybody's data is read, so its epsilon is known beforehand and no result can change it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from common.errors import StudyError
from common.files import write_atomic
from common.privacy import accounting
from common.privacy.events import Event, PoissonGaussian, gaussian
from common.schema import dump_toml, read_toml
from common.study import Study, most_liars, parse_study

DIGEST_VERSION = 3


@dataclass(frozen=True)
class Plan:
    """A study with its noise fixed.

    Attributes:
        study: The rules.
        sigma: Noise multiplier of each training step; 0 where the study is not private.
        evaluation_sigma: Standard deviation of the noise in each cell of an evaluation histogram.
    """

    study: Study
    sigma: float
    evaluation_sigma: float

    def __hash__(self) -> int:
        """A plan is what its digest says."""
        return hash(self.digest)

    @property
    def private(self) -> bool:
        """Whether the study promises anything."""
        return self.study.privacy is not None

    @property
    def clip(self) -> float:
        """C, or infinity where the study is not private."""
        return math.inf if self.study.privacy is None else self.study.privacy.clip

    @property
    def delta(self) -> float:
        """Delta of the promise; 0 where there is none."""
        return 0.0 if self.study.privacy is None else self.study.privacy.delta

    @property
    def steps(self) -> int:
        """Private steps of one hospital in the whole run: local steps times rounds."""
        return self.study.learner.local_steps * self.study.rounds.count

    @property
    def histograms(self) -> int:
        """Histograms in one evaluation: one for two classes, else one a class against the rest."""
        classes = len(self.study.cohort.label.classes)
        return 1 if classes == 2 else classes

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the rules and the compiled noise; the simulation is not in it."""
        content = {
            "version": DIGEST_VERSION,
            "rules": self.study.rules(),
            "sigma": self.sigma,
            "evaluation_sigma": self.evaluation_sigma,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def denominator(self, declared: int) -> float:
        """Return D = q * declared * train fraction: the public divisor of a step's sum."""
        rules = self.study
        return rules.learner.sampling_rate * declared * rules.cohort.train_fraction

    def training_price(self, *, rounds: int = 1) -> Event:
        """Return what the weight deltas of `rounds` rounds cost a training patient."""
        return gaussian(
            sigma=self.sigma,
            sampling_rate=self.study.learner.sampling_rate,
            count=self.study.learner.local_steps * rounds,
            part="train",
        )

    def evaluation_price(self) -> Event:
        """Return what the evaluation costs a holdout patient: one query for each histogram.

        A patient has unit mass in each histogram, hence the count and not a larger sensitivity.
        """
        return gaussian(sigma=self.evaluation_sigma, count=self.histograms, part="holdout")

    def epsilon_after(self, rounds: int) -> float:
        """Return what a training patient has spent after that many rounds."""
        if rounds == 0:
            return 0.0
        return accounting.epsilon([self.training_price(rounds=rounds)], delta=self.delta)

    @cached_property
    def epsilon(self) -> float:
        """Return what one patient spends in the whole run: training and evaluation in parallel."""
        prices = [self.training_price(rounds=self.study.rounds.count), self.evaluation_price()]
        return accounting.epsilon(prices, delta=self.delta)


def compile_study(study: Study) -> Plan:
    """Fix the noise of a study.

    Raises:
        StudyError: the target epsilon cannot be met, or the quorum cannot bear the liars.
    """
    _check_liars(study)
    privacy = study.privacy
    if privacy is None:
        return Plan(study=study, sigma=0.0, evaluation_sigma=0.0)
    sigma = privacy.sigma if privacy.epsilon is None else _training_sigma(study, privacy.epsilon)
    assert sigma is not None  # PrivacySpec holds one of the two
    draft = Plan(study=study, sigma=sigma, evaluation_sigma=1.0)
    target = study.evaluation.epsilon or privacy.epsilon or draft.epsilon_after(study.rounds.count)
    return Plan(study=study, sigma=sigma, evaluation_sigma=_evaluation_sigma(draft, target))


def _check_liars(study: Study) -> None:
    """Refuse an aggregation that the smallest round which counts could not carry out."""
    server, quorum = study.server, study.rounds.quorum
    if server.liars <= most_liars(server.aggregation, quorum):
        return
    if server.aggregation == "mean":
        raise StudyError(
            f"server.liars is {server.liars}, and server.aggregation is 'mean', which bears none",
            remedy="choose median, trimmed_mean or krum, or leave server.liars out",
        )
    needed = next(
        n for n in itertools.count(quorum) if most_liars(server.aggregation, n) >= server.liars
    )
    raise StudyError(
        f"server.liars is {server.liars}: {server.aggregation!r} needs {needed} hospitals in "
        f"every round to bear that many, and rounds.quorum is {quorum}",
        remedy=f"raise rounds.quorum to {needed}, lower server.liars, or choose another "
        "server.aggregation",
    )


def _evaluation_sigma(draft: Plan, target: float) -> float:
    try:
        return accounting.calibrate_sigma(
            target_epsilon=target,
            delta=draft.delta,
            price=lambda s: PoissonGaussian(s, 1.0, draft.histograms, "holdout"),
        )
    except StudyError as error:
        if draft.study.evaluation.epsilon is None:
            raise
        raise StudyError(
            f"evaluation.epsilon is {target:g}: no noise on a histogram reaches it",
            remedy="raise evaluation.epsilon, or leave it out",
        ) from error


def _training_sigma(study: Study, target: float) -> float:
    assert study.privacy is not None
    steps = study.learner.local_steps * study.rounds.count
    return accounting.calibrate_sigma(
        target_epsilon=target,
        delta=study.privacy.delta,
        price=lambda s: PoissonGaussian(s, study.learner.sampling_rate, steps, "train"),
    )


def write_plan(plan: Plan, folder: Path) -> Path:
    """Write the plan, named by its digest, as a site keeps it once approved; return the file."""
    path = folder / f"{plan.digest}.toml"
    noise = {"sigma": plan.sigma, "evaluation_sigma": plan.evaluation_sigma}
    write_atomic(path, dump_toml({**plan.study.rules(), "compiled": noise}))
    return path


def read_plan(path: Path) -> Plan:
    """Read a plan that `write_plan` wrote, and hold it to its name.

    Raises:
        StudyError: the file is missing or malformed, or its content is not what its name says.
    """
    values: dict[str, Any] = read_toml(path, what="plan")
    noise = values.pop("compiled", {})
    try:
        sigma, evaluation_sigma = float(noise["sigma"]), float(noise["evaluation_sigma"])
    except (KeyError, TypeError, ValueError):
        raise StudyError(
            f"plan file {str(path)!r} has no readable [compiled] table",
            remedy="compile the study again",
        ) from None
    plan = Plan(parse_study(values, origin=str(path)), sigma, evaluation_sigma)
    if plan.digest != path.stem:
        raise StudyError(
            f"plan file {str(path)!r} does not hold the study of that digest "
            f"(its content is {plan.digest[:12]}...)",
            remedy="compile the study again; do not edit an approved plan",
        )
    return plan
