"""How often to sample, how many steps, which clip: from public figures alone, before any data.

The rule
    A hospital of n declared patients adds N(0, (sigma C)^2) to a sum and divides by the public
    D = q n f (f the share that trains): noise of standard deviation sigma C / D in each of d
    weights, of length about sqrt(d) sigma C / D, on a mean gradient that is no longer than C. Over
    T steps alpha the signal adds up to at most alpha T C, and the noise, in any direction, to
    alpha sqrt(T) sigma C / D: the signal to noise of the whole run is

        s = sqrt(T) D / sigma = f n sqrt(T) q / sigma.

    With q = 1, T Gaussians of multiplier sigma are one of sigma / sqrt(T) (Dong, Roth and Su 2022,
    corollary 3.3): sigma = sqrt(T) / mu with mu of (epsilon, delta) alone, so s = f n mu whatever T
    is. A sampled step counts as q^2 (exp(1 / sigma^2) - 1) in place of 1 / sigma^2 (their section
    5), which is more than q^2 / sigma^2: s is smaller, and q = 1 is best. What a smaller q buys is
    time: a run computes T q gradients of each record.

    As s does not depend on T, T is the most steps whose noise is no longer than the longest mean
    gradient, at the median hospital: sqrt(d) sigma / D <= 1, or T <= (f n mu)^2 / d. Of more steps
    each is mostly noise, and rounds cost time; fewer leave the walk shorter than it need be.

    The clip cannot be known before gradients are. With automatic clipping it need not: every
    patient's gradient is about as long as C, and only alpha C matters.

The rule is about noise. What a network gains from more steps than that, no public figure says: try
it on public data first.

No patient is read: declared sizes are published, and epsilon, delta, d and f are rules.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import StudyError
from common.learners.tasks import shares
from common.models import shapes_of, trained
from common.plan import Plan, compile_study
from common.study import Study, parse_study

_RATES = (0.5, 0.2, 0.1)
_MOST_ROUNDS = 1000  # an epsilon so large that noise is no limit is no reason for more


@dataclass(frozen=True)
class Candidate:
    """One choice of sampling rate and steps, and what it would cost in noise.

    Attributes:
        sampling_rate: q.
        rounds: How many.
        local_steps: K in each of them.
        sigma: The noise multiplier of a step that meets the study's epsilon.
        noise: Standard deviation of the noise on each weight of the median hospital's mean
            gradient, in clips.
        noise_length: The length of that noise over all weights, in clips.
        signal_to_noise: s of the whole run, as a share of the best that epsilon and delta allow.
        gradients: How many gradients of each record the run computes.
    """

    sampling_rate: float
    rounds: int
    local_steps: int
    sigma: float
    noise: float
    noise_length: float
    signal_to_noise: float
    gradients: float


@dataclass(frozen=True)
class Suggestion:
    """What to choose, and what there was to choose from.

    Attributes:
        declared: The hospitals' public sizes.
        parameters: d, how many weights are trained.
        own: The study as it is.
        best: What the rule chooses.
        others: The same amount of work at smaller sampling rates, and half and twice the steps.
    """

    declared: tuple[int, ...]
    parameters: int
    epsilon: float
    delta: float
    own: Candidate
    best: Candidate
    others: tuple[Candidate, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, with the tables that a study would have."""
        chosen = {"sampling_rate": self.best.sampling_rate, "local_steps": self.best.local_steps}
        return asdict(self) | {
            "suggested": {
                "learner": chosen,
                "rounds": {"count": self.best.rounds},
                "privacy": {"clip": 1.0, "clipping": "automatic"},
            }
        }


def suggest(study: Study, *, declared: Sequence[int]) -> Suggestion:
    """Suggest sampling rate and steps for a study, by the rule of this module.

    Args:
        study: Says epsilon (or sigma, which says epsilon), delta, model and learner.
        declared: The public size of each hospital.

    Raises:
        StudyError: the study is not private, or by episode, or a size is none.
    """
    study.check_trains("study suggest")
    _check(study, declared)
    given = compile_study(study)
    epsilon = given.epsilon_after(study.rounds.count)
    target = study.with_epsilon(epsilon)
    size = statistics.median_low(declared)
    count = sum(v.numel() for v in trained(study, shapes_of(study)).values())

    def candidate(rate: float, rounds: int, steps: int) -> Candidate:
        plan = compile_study(_with(target, rate, rounds, steps))
        return _candidate(plan, size, count)

    steps = study.learner.local_steps
    once = candidate(1.0, 1, steps)
    most = once.noise_length**-2  # rounds: at q = 1 noise grows as their square root
    rounds, steps = max(1, min(_MOST_ROUNDS, int(most))), max(1, min(steps, int(steps * most)))
    best = candidate(1.0, rounds, steps)
    others = [candidate(1.0, n, steps) for n in (-(-rounds // 2), 2 * rounds) if n != rounds]
    others += [candidate(rate, round(rounds / rate), steps) for rate in _RATES]
    rows = [_candidate(given, size, count), best, *others]
    scale = once.signal_to_noise
    own, best, *others = (replace(r, signal_to_noise=r.signal_to_noise / scale) for r in rows)
    return Suggestion(tuple(declared), count, epsilon, given.delta, own, best, tuple(others))


def _check(study: Study, declared: Sequence[int]) -> None:
    """Refuse what the rule does not speak about."""
    if study.privacy is None:
        raise StudyError(
            f"study {study.name!r} has no privacy table: without noise there is nothing to balance",
            remedy="add [privacy] with epsilon and delta",
        )
    if not declared or min(declared) < 1:
        raise StudyError(
            f"the declared sizes are {list(declared)}",
            remedy="give the public size of each hospital, such as --declared 300,290,120,200",
        )
    if study.learner.meta is not None and study.learner.meta.unit == "episode":
        raise StudyError(
            "learner.meta.unit is 'episode': its noise is on episodes, which are never sampled",
            remedy="choose learner.meta.episodes and rounds.count by a simulation",
        )


def _with(study: Study, rate: float, rounds: int, steps: int) -> Study:
    values = study.model_dump(mode="json", exclude={"simulation"})
    values["learner"] |= {"sampling_rate": rate, "local_steps": steps}
    values["rounds"]["count"] = rounds
    return parse_study(values, origin="suggestion")


def _candidate(plan: Plan, size: int, parameters: int) -> Candidate:
    """Return a plan's noise; its signal to noise is s itself, not yet a share.

    Of a learner with a query it is the query's, once a round: that is what leaves.
    """
    learner, rounds, sigma, sums = plan.study.learner, plan.study.rounds.count, plan.sigma, 0
    share = 1.0
    if learner.has_query and learner.meta is not None:
        share, sigma, sums = shares(learner.meta)[1], plan.query_sigma, rounds
    noise = sigma / plan.denominator(size, share=share)
    return Candidate(
        sampling_rate=learner.sampling_rate,
        rounds=rounds,
        local_steps=learner.local_steps,
        sigma=sigma,
        noise=noise,
        noise_length=noise * math.sqrt(parameters),
        signal_to_noise=math.sqrt(sums or plan.steps) / noise,
        gradients=plan.steps * learner.sampling_rate,
    )
