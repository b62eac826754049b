"""What an audit's tests say together: the verdict, at a false-alarm rate fixed beforehand.

Guarantees
    The tests are registered before the audit looks at anything. If each of the k tests that draw
    on chance fails a sound engine with probability at most p/k, at least one of them does with
    probability at most p, whatever ties them together (Bonferroni; the union bound). An exact test
    (a count, a bound that holds for certain) never fails a sound engine, so it takes no share.

    A passed audit proves nothing: no test refuted the claim. A claim above the ceiling, the largest
    epsilon that the canaries could have shown, could not have been refuted by them, and the
    verdict says so.

    ==============================================  ================================
    tests                                           verdict
    ==============================================  ================================
    one failed                                      fail
    all passed, claim above the ceiling or infinite could not have been refuted
    all passed otherwise                            not refuted
    not those that were registered                  ValueError: no verdict
    ==============================================  ================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from common.intervals import Estimate

Verdict = Literal["not refuted", "fail", "could not have been refuted"]


@dataclass(frozen=True)
class Outcome:
    """One test: it passed if its statistic was at most its threshold; see `judge`.

    Attributes:
        name: As registered.
        passed: Whether a sound engine may look so.
        statistic: How far from the claim, in the unit that `detail` names; infinite where the
            engine gave no number.
        threshold: The largest statistic that passes.
        detail: The finding in words.
    """

    name: str
    passed: bool
    statistic: float
    threshold: float
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is not finite becomes None, for JSON knows no infinity."""
        return {
            "name": self.name,
            "passed": self.passed,
            "statistic": _finite(self.statistic),
            "threshold": _finite(self.threshold),
            "detail": self.detail,
        }


def judge(name: str, *, statistic: float, threshold: float, detail: str = "") -> Outcome:
    """Return the outcome of a test that passes while its statistic is at most its threshold.

    >>> judge("steps", statistic=0, threshold=0).passed
    True
    >>> judge("steps", statistic=math.nan, threshold=0).passed  # no number is no evidence
    False
    """
    passed = bool(statistic <= threshold)
    return Outcome(name, passed, float(statistic), float(threshold), detail)


def judge_bound(name: str, *, lower: float, claimed_epsilon: float) -> Outcome:
    """Return the outcome of a lower bound of epsilon: it fails above the claim."""
    detail = f"epsilon is at least {lower:.3g}; claimed {claimed_epsilon:.3g}"
    return judge(name, statistic=lower, threshold=claimed_epsilon, detail=detail)


@dataclass(frozen=True)
class Registered:
    """The tests of an audit, named before it starts.

    Args:
        random: Tests that draw on chance, lower bounds of epsilon among them.
        exact: Tests that never fail a sound engine.
        p: The probability with which a sound engine may fail the whole audit.

    Raises:
        ValueError: a name comes twice, or p is not in (0, 1).

    >>> Registered(random=("std", "shape"), p=.01).level
    0.005
    """

    random: tuple[str, ...]
    exact: tuple[str, ...] = ()
    p: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what would make the level a lie."""
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"tests {self.names} name one twice; register each once")
        if not 0 < self.p < 1:
            raise ValueError(f"p is {self.p}; use a number between 0 and 1")

    @property
    def names(self) -> tuple[str, ...]:
        """All registered tests."""
        return (*self.random, *self.exact)

    @property
    def level(self) -> float:
        """The false-alarm probability of each random test: p over their number."""
        return self.p / max(1, len(self.random))


@dataclass(frozen=True)
class Audit:
    """A finished audit of one claim.

    Args:
        claimed_epsilon: What the accountant says; infinity for no claim.
        delta: Of the claim and of every bound.
        registered: The tests, as registered beforehand.
        tests: Their outcomes, in any order.
        lower_bounds: Epsilon by method; each method is one of the tests.
        parametric: Epsilon from what was measured of the mechanism; None if not measured.
        ceiling_epsilon: The largest epsilon that a lower bound could have reached; 0 without any.

    Raises:
        ValueError: the outcomes are not those of the registered tests, or a method is no test.
    """

    claimed_epsilon: float
    delta: float
    registered: Registered
    tests: tuple[Outcome, ...]
    lower_bounds: Mapping[str, float] = field(default_factory=dict)
    parametric: Estimate | None = None
    ceiling_epsilon: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a selection of tests: chosen after the fact they have another error rate."""
        found, named = [test.name for test in self.tests], self.registered.names
        if sorted(found) != sorted(named):
            odd = sorted(set(found) ^ set(named)) or sorted(n for n in found if found.count(n) > 1)
            raise ValueError(f"tests {odd} differ from those registered; run each of them once")
        strangers = sorted(set(self.lower_bounds) - set(self.registered.random))
        if strangers:
            raise ValueError(f"lower bounds {strangers} are no registered random test")
        if math.isnan(self.claimed_epsilon) or self.claimed_epsilon < 0:
            raise ValueError(f"claimed_epsilon is {self.claimed_epsilon}; use at least 0")

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The tests that refuted the claim or the mechanism."""
        return tuple(test for test in self.tests if not test.passed)

    @property
    def verdict(self) -> Verdict:
        """What may be said; see the table at the top."""
        if self.failed or any(v > self.claimed_epsilon for v in self.lower_bounds.values()):
            return "fail"
        if not self.claimed_epsilon <= self.ceiling_epsilon:
            return "could not have been refuted"
        return "not refuted"

    @property
    def exit_code(self) -> int:
        """What a command returns: 1 on "fail", else 0."""
        return int(self.verdict == "fail")

    def to_json(self) -> dict[str, Any]:
        """Return the contract of `--json`; what is not finite becomes None."""
        ends = self.parametric
        return {
            "verdict": self.verdict,
            "claimed_epsilon": _finite(self.claimed_epsilon),
            "delta": self.delta,
            "lower_bound_epsilon": {k: _finite(v) for k, v in self.lower_bounds.items()},
            "parametric_epsilon": {
                "low": None if ends is None else _finite(ends.low),
                "high": None if ends is None else _finite(ends.high),
            },
            "ceiling_epsilon": _finite(self.ceiling_epsilon),
            "tests": [test.to_json() for test in self.tests],
        }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
