"""The audit of an engine: which experiments, on which of its ways, at what level, and the verdict.

An engine takes a step in one of three ways: in closed form for a stack of layers and patients of
one record, by hooks, and one record after the other for a large model. Each is audited where a
plan of the model can take it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.auditing import parametric
from common.auditing.outcome import Audit, Outcome, Registered, judge_bound
from common.intervals import Estimate
from common.privacy.accounting import epsilon
from common.seeds import derive
from server.results import privacy_of
from simulations.audit.canaries import canaries
from simulations.audit.experiments import Experiment, Seen
from simulations.audit.noise import added_noise
from simulations.audit.replay import replay
from simulations.audit.sampler import sampled
from simulations.audit.site import sites
from simulations.audit.subject import GENERATORS, Subject
from simulations.audit.transcript import transcript

NOISE = {
    "secure": "AES-256 in counter mode, keyed by the operating system, as at a site",
    "seeded": "a generator that a seed repeats, as in a simulation",
}


@dataclass(frozen=True)
class Way:
    """One way of taking a step.

    Attributes:
        name: What makes the engine take it.
        subject: The engine with a plan that does.
        records: Of each patient.
        releases: How many the noise is taken from: few of a large model say enough.
    """

    name: str
    subject: Subject
    records: int
    releases: int


@dataclass(frozen=True)
class Effort:
    """How much is looked at.

    Attributes:
        canaries: How many; none for no lower bound.
        others: Patients beside the canaries.
        samples: How many samples are looked at.
        patients: From how many they are drawn.
        generators: Whose noise and samples are looked at.
        sites: Whether two sites' agents are run too.
        measured: Whether epsilon is stated from what was measured.
        p: The probability with which a sound engine may fail the audit.
    """

    canaries: int = 1000
    others: int = 1000
    samples: int = 100
    patients: int = 500
    generators: tuple[str, ...] = GENERATORS
    sites: bool = True
    measured: bool = True
    p: float = 0.01


QUICK = Effort()
FULL = Effort(canaries=5000, others=2000, samples=200, patients=1000)


@dataclass(frozen=True)
class Findings:
    """A finished audit, with plain values for its page."""

    audit: Audit
    evidence: dict[str, Any]


def described(
    ways: Sequence[Way], effort: Effort, *, seed: int, evidence: dict[str, Any]
) -> dict[str, Any]:
    """Return what an audit was about and what it saw, as plain values for its page."""
    subject = ways[0].subject
    plan = subject.plan
    noise = " and ".join(f"{name}: {NOISE[name]}" for name in effort.generators)
    return {
        "title": f"engine, {plan.study.model.name}, {plan.study.learner.name}",
        "privacy": privacy_of(plan, noise=noise),
        "mechanism": {
            "model": plan.study.model.name,
            "learner": plan.study.learner.name,
            "device": subject.device,
            "sigma": subject.sigma,
            "sampling_rate": subject.rate,
            "clip": plan.clip,
            "local_steps": plan.study.learner.local_steps,
            "rounds": plan.study.rounds.count,
            "count": sums_of(subject),
        },
        "ways": [way.name for way in ways],
        "false_alarm": effort.p,
        "canaries": effort.canaries,
        "seed": seed,
        "evidence": evidence,
    }


def sums_of(subject: Subject) -> int:
    """Return how many sums of a hospital's patients reach the deltas of the whole plan."""
    rules = subject.plan.study
    return subject.sums(rules.learner.local_steps) * rules.rounds.count


def audit_engine(
    ways: Sequence[Way], effort: Effort, *, seed: int, tell: Callable[[str], None] = lambda _: None
) -> Findings:
    """Carry out every experiment on every way; the first is the one that the plan takes.

    Args:
        ways: At least one.
        effort: How much is looked at.
        seed: Of patients, weights, coins and seeded streams.
        tell: Is told what is being done.
    """
    subject = ways[0].subject
    count = sums_of(subject)
    claimed = epsilon([subject.mechanism(count)], delta=subject.plan.delta)
    experiments = _experiments(ways, effort, count=count, claimed=claimed, seed=seed)
    return carry_out(
        experiments, claimed_epsilon=claimed, delta=subject.plan.delta, p=effort.p, tell=tell
    )


def carry_out(
    experiments: Sequence[Experiment],
    *,
    claimed_epsilon: float,
    delta: float,
    p: float,
    tell: Callable[[str], None],
) -> Findings:
    """Register every test, then carry out the experiments in order.

    Args:
        experiments: In the order in which they need each other.
        claimed_epsilon: Of the claim.
        delta: Of the claim.
        p: The probability with which a sound engine may fail.
        tell: Is told what is being done.
    """
    registered = Registered(
        random=tuple(name for e in experiments for name in e.random),
        exact=tuple(name for e in experiments for name in e.exact),
        p=p,
    )
    seen, outcomes = Seen(), list[Outcome]()
    for number, experiment in enumerate(experiments, start=1):
        tell(f"{number}/{len(experiments)} {experiment.title}")
        outcomes += experiment.run(registered.level, seen)
    audit = Audit(
        claimed_epsilon,
        delta,
        registered,
        tuple(outcomes),
        seen.bounds,
        seen.parametric,
        seen.ceiling,
    )
    return Findings(audit, seen.evidence)


def _experiments(
    ways: Sequence[Way], effort: Effort, *, count: int, claimed: float, seed: int
) -> list[Experiment]:
    """Return the experiments in the order in which they need each other."""
    subject = ways[0].subject
    found = [experiment for way in ways for experiment in of_way(way, effort, seed)]
    found.append(transcript(subject, records=ways[0].records, seed=seed))
    sample = {"releases": effort.samples, "patients": effort.patients, "seed": seed}
    for generator in effort.generators:
        found.append(sampled(subject, generator=generator, **sample))
        if effort.sites:
            found.append(sites(subject, generator=generator, seed=seed))
    if effort.canaries:
        found.append(
            canaries(
                subject,
                claimed_epsilon=claimed,
                count=effort.canaries,
                others=effort.others,
                releases=count,
                records=ways[0].records,
                seed=seed,
            )
        )
    if effort.measured:
        found.append(from_measurements(subject, claimed_epsilon=claimed, count=count))
    return found


def of_way(way: Way, effort: Effort, seed: int) -> list[Experiment]:
    """Return what is looked at in each way of taking a step."""
    usual: dict[str, Any] = {"records": way.records, "seed": derive(seed, way.name)}
    return [
        replay(way.subject, way.name, **usual),
        *(
            added_noise(way.subject, way.name, generator=g, releases=way.releases, **usual)
            for g in effort.generators
        ),
    ]


def from_measurements(subject: Subject, *, claimed_epsilon: float, count: int) -> Experiment:
    """P: epsilon from the noise, the bound and the rate that the others measured."""
    name = "P parametric: epsilon"

    def carry_out(level: float, seen: Seen) -> list[Outcome]:
        usual: dict[str, Any] = {
            "noise": seen.noise,
            "sensitivity": seen.sensitivity,
            "sizes": seen.sizes,
            "patients": seen.patients,
            "delta": subject.plan.delta,
        }
        claim = subject.mechanism(count)
        if not (math.isfinite(seen.sensitivity) and np.isfinite(seen.noise).all()):
            seen.parametric = Estimate(None, math.inf, math.inf)
            return [judge_bound(name, lower=math.inf, claimed_epsilon=claimed_epsilon)]
        seen.parametric = parametric.epsilon(claim, **usual)
        low = parametric.epsilon(claim, **usual, p=level).low
        return [judge_bound(name, lower=low, claimed_epsilon=claimed_epsilon)]

    return Experiment("parametric", (name,), (), carry_out)
