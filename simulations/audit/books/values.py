"""A ledger or a run as values, and the tests that both have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from common.auditing.outcome import Outcome, judge
from common.privacy.events import Event, PoissonGaussian
from simulations.audit.books.recompute import PRV_TOLERANCE, Recomputed, recompute

EXACT = 1e-6  # two routes to the same figure


@dataclass(frozen=True)
class Books:
    """What a ledger or a run says, and what was found of it.

    Attributes:
        about: What they are, in words.
        claimed: Epsilon that was promised; infinite where nothing was.
        delta: Of the promise.
        total: What the events come to.
        tests: Exact ones, every one that applies.
        lines: One for each study or job: `name`, `digest`, `delta`, `claimed`, `said`, `pld`,
            `prv`, `sums`, `planned`.
        privacy: The promise in plain values, as a report has it.
        remarks: What else a reader should know.
    """

    about: str
    claimed: float
    delta: float
    total: Recomputed
    tests: tuple[Outcome, ...]
    lines: tuple[Mapping[str, Any], ...]
    privacy: Mapping[str, Any]
    remarks: tuple[str, ...] = ()


def accountants(name: str, found: Recomputed, *, said: float) -> list[Outcome]:
    """Return the tests that what was said is what both accountants say."""
    off = 0.0 if said == found.pld else abs(said - found.pld)
    return [
        judge(
            f"L {name}: recomputed",
            statistic=off,
            threshold=EXACT,
            detail=f"epsilon {said:.6g} was said, the events come to {found.pld:.6g}",
        ),
        judge(
            f"L {name}: second accountant",
            statistic=found.apart,
            threshold=PRV_TOLERANCE,
            detail=f"PLD {found.pld:.4g}, PRV at most {found.prv:.4g}",
        ),
    ]


def at_most(name: str, value: float, limit: float, detail: str) -> Outcome:
    """Return the test that a value is not above a limit, but for rounding."""
    return judge(name, statistic=value, threshold=limit + EXACT, detail=detail)


def released(
    what: str, events: Iterable[tuple[Event, int]], *, delta: float
) -> list[dict[str, Any]]:
    """Return a row for each kind of event, as a report's table of releases has it.

    Args:
        what: What it is of.
        events: Each event as one release has it, and how often it was released.
        delta: Of the study.
    """
    rows = []
    for event, count in events:
        cost = recompute([event] * count, delta=delta).pld
        kind = "evaluation histogram" if event.part == "holdout" else "weight delta"
        sigma = event.sigma if isinstance(event, PoissonGaussian) else 0.0
        rows.append(
            {
                "what": f"{what}: {kind}",
                "part": event.part,
                "count": count,
                "sigma": sigma,
                "epsilon": cost,
            }
        )
    return rows


def finite_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values in which infinity, which JSON has not, is None."""
    return {k: _finite(v) for k, v in values.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return finite_values(value)
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
