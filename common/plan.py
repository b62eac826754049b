"""A study compiled: every number of the promise fixed, and the digest that stands for all of it.

The plan is what a hospital approves. It fixes sigma, the sampling rate, the steps and the rounds
before anybody's data is read, so its epsilon is known beforehand and no result can change it.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from common.errors import StudyError
from common.files import write_atomic
from common.privacy import accounting
from common.privacy.events import Adjacency, Event, Part, gaussian
from common.privacy.mechanisms import training_events
from common.rules import check_rules
from common.schema import dump_toml, read_toml
from common.study import Clipping, PrivacySpec, Study, parse_study

DIGEST_VERSION = 5


@dataclass(frozen=True)
class Plan:
    """A study with its noise fixed.

    Attributes:
        study: The rules.
        sigma: Noise multiplier of each training step; 0 where the study is not private.
        evaluation_sigma: Standard deviation of the noise in each cell of an evaluation histogram;
            of an effect, the noise multiplier of its table.
        query_sigma: Noise multiplier of a query gradient; 0 also where the learner has no query.
    """

    study: Study
    sigma: float
    evaluation_sigma: float
    query_sigma: float = 0.0

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
    def clipping(self) -> Clipping:
        """How a patient's gradient comes below C."""
        return "norm" if self.study.privacy is None else self.study.privacy.clipping

    @property
    def delta(self) -> float:
        """Delta of the promise; 0 where there is none."""
        return 0.0 if self.study.privacy is None else self.study.privacy.delta

    @property
    def steps(self) -> int:
        """How often one hospital's training patients are read in the whole run, with noise.

        Once in a study of an effect, which all patients are for.
        """
        if self.study.effect is not None:
            return self.evaluation_price().count
        prices = self.training_prices(rounds=self.study.rounds.count)
        return sum(event.count for event in prices)

    @property
    def adjacency(self) -> Adjacency:
        """What neighbouring data sets differ in, for which the promise holds."""
        prices = self.training_prices()
        return prices[0].adjacency if prices else "add_remove"

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Every noise multiplier that the plan fixes."""
        if self.study.effect is not None:
            return (self.evaluation_sigma,)
        query = (self.query_sigma,) if self.study.learner.has_query else ()
        return (self.sigma, *query, self.evaluation_sigma)

    @property
    def histograms(self) -> int:
        """Histograms in one evaluation: one for two classes, else one a class against the rest."""
        classes = len(self.study.cohort.label.classes)
        return 1 if classes == 2 else classes

    @property
    def release_shape(self) -> tuple[int, int, int]:
        """Shape of what leaves at the end: histograms of scores, or the table of an effect."""
        study = self.study
        if study.effect is not None:
            return study.effect.shape
        return (self.histograms, 2, study.evaluation.bins)

    @property
    def release_sigma(self) -> float:
        """Standard deviation of the noise in each of its cells."""
        effect = self.study.effect
        return self.evaluation_sigma * (1.0 if effect is None else effect.sensitivity)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the rules and the compiled noise; the simulation is not in it."""
        content = {
            "version": DIGEST_VERSION,
            "rules": self.study.rules(),
            **self.noise,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def noise(self) -> dict[str, float]:
        """The compiled noise, by name: what a study's rules leave open."""
        return {
            "sigma": self.sigma,
            "evaluation_sigma": self.evaluation_sigma,
            "query_sigma": self.query_sigma,
        }

    def denominator(self, declared: int, *, share: float = 1.0) -> float:
        """Return D = q * declared * train fraction * share: the public divisor of a step's sum.

        Args:
            declared: The site's public count of all patients.
            share: Of the training patients, those that the step reads.
        """
        rules = self.study
        return rules.learner.sampling_rate * declared * rules.cohort.train_fraction * share

    def training_prices(self, *, rounds: int = 1) -> tuple[Event, ...]:
        """Return what the weight deltas of `rounds` rounds cost training patients."""
        if self.study.effect is not None:
            return ()
        return training_events(
            self.study.learner, sigma=self.sigma, query_sigma=self.query_sigma, rounds=rounds
        )

    def evaluation_price(self) -> Event:
        """Return what the evaluation costs a holdout patient: one query for each histogram.

        A patient has unit mass in each histogram, hence the count and not a larger sensitivity. A
        patient exchanged moves two cells by 1 each, sqrt(2) in all, which the 2 C that adjacency
        'replace' prices covers.

        Of an effect: what its table costs a patient, one query of noise multiplier
        `evaluation_sigma` on everybody (`common.effect_table`). All patients are of the training
        part there, so nothing composes in parallel.
        """
        if self.study.effect is not None:
            return gaussian(sigma=self.evaluation_sigma, count=1, part="train")
        price = gaussian(sigma=self.evaluation_sigma, count=self.histograms, part="holdout")
        return replace(price, adjacency=self.adjacency)

    def epsilon_after(self, rounds: int) -> float:
        """Return what a training patient has spent after that many rounds."""
        if rounds == 0:
            return 0.0
        return accounting.epsilon(self.training_prices(rounds=rounds), delta=self.delta)

    @cached_property
    def epsilon(self) -> float:
        """Return what one patient spends in the whole run: training and evaluation in parallel."""
        prices = [*self.training_prices(rounds=self.study.rounds.count), self.evaluation_price()]
        return accounting.epsilon(prices, delta=self.delta)


def compile_study(study: Study) -> Plan:
    """Fix the noise of a study.

    Raises:
        StudyError: the target epsilon cannot be met, the quorum cannot bear the liars, or what is
            to be augmented is no picture.
    """
    check_rules(study)
    privacy = study.privacy
    if privacy is None:
        return Plan(study=study, sigma=0.0, evaluation_sigma=0.0)
    if study.effect is not None:
        return _effect_plan(study, privacy)
    sigma, query_sigma = _training_sigmas(study, privacy)
    draft = Plan(study=study, sigma=sigma, evaluation_sigma=1.0, query_sigma=query_sigma)
    target = study.evaluation.epsilon or privacy.epsilon or draft.epsilon_after(study.rounds.count)
    return replace(draft, evaluation_sigma=_evaluation_sigma(draft, target))


def _effect_plan(study: Study, privacy: PrivacySpec) -> Plan:
    """Spend the whole epsilon on the one release."""
    if privacy.sigma is not None:
        return Plan(study=study, sigma=0.0, evaluation_sigma=privacy.sigma)
    draft = Plan(study=study, sigma=0.0, evaluation_sigma=1.0)
    return replace(draft, evaluation_sigma=_evaluation_sigma(draft, float(privacy.epsilon or 0)))


def _evaluation_sigma(draft: Plan, target: float) -> float:
    try:
        return accounting.calibrate_sigma(
            target_epsilon=target,
            delta=draft.delta,
            price=lambda s: [replace(draft, evaluation_sigma=s).evaluation_price()],
        )
    except StudyError as error:
        if draft.study.evaluation.epsilon is None:
            raise
        raise StudyError(
            f"evaluation.epsilon is {target:g}: no noise on a histogram reaches it",
            remedy="raise evaluation.epsilon, or leave it out",
        ) from error


def _training_sigmas(study: Study, privacy: PrivacySpec) -> tuple[float, float]:
    """Return the noise multipliers of inner steps and of the query, 0 where there is no query.

    Support and query patients who are parted each pay for their own side alone, so each side's
    noise is the least that meets the target.
    """
    learner, target = study.learner, privacy.epsilon
    if target is None:
        assert privacy.sigma is not None  # PrivacySpec holds one of the two
        return privacy.sigma, privacy.sigma if learner.has_query else 0.0

    def least(part: Part | None = None) -> float:
        def price(sigma: float) -> list[Event]:
            events = training_events(
                learner, sigma=sigma, query_sigma=sigma, rounds=study.rounds.count
            )
            return [event for event in events if part in (None, event.part)]

        return accounting.calibrate_sigma(target_epsilon=target, delta=privacy.delta, price=price)

    if learner.is_parted:
        return least("support"), least("query")
    sigma = least()
    return sigma, sigma if learner.has_query else 0.0


def write_plan(plan: Plan, folder: Path) -> Path:
    """Write the plan, named by its digest, as a site keeps it once approved; return the file."""
    path = folder / f"{plan.digest}.toml"
    write_atomic(path, dump_toml({**plan.study.rules(), "compiled": plan.noise}))
    return path


def read_plan(path: Path) -> Plan:
    """Read a plan that `write_plan` wrote, and hold it to its name.

    Raises:
        StudyError: the file is missing or malformed, or its content is not what its name says.
    """
    values: dict[str, Any] = read_toml(path, what="plan")
    noise = values.pop("compiled", {})
    try:
        compiled = [float(noise[name]) for name in ("sigma", "evaluation_sigma", "query_sigma")]
    except (KeyError, TypeError, ValueError):
        raise StudyError(
            f"plan file {str(path)!r} has no readable [compiled] table",
            remedy="compile the study again",
        ) from None
    plan = Plan(parse_study(values, origin=str(path)), *compiled)
    if plan.digest != path.stem:
        raise StudyError(
            f"plan file {str(path)!r} does not hold the study of that digest "
            f"(its content is {plan.digest[:12]}...)",
            remedy="compile the study again; do not edit an approved plan",
        )
    return plan
