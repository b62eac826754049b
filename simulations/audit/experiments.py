"""An experiment of an audit: what it looks at, and the tests that it is registered for.

A test's name begins with its letter: A replay, B noise, S sampler, C canaries, P parametric.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.auditing.outcome import Outcome
from common.errors import GrandroundsError, RunError
from common.intervals import Estimate
from common.metrics import Array


@dataclass
class Seen:
    """What the experiments of one audit have measured so far.

    Attributes:
        sensitivity: The most that one patient moved a sum, in units of C.
        noise: Noise in units of the claimed, (values,).
        sizes: Patients in each sample.
        patients: How many they were drawn from.
        bounds: Lower bounds of epsilon, by test.
        ceiling: The largest epsilon that a bound could have shown.
        parametric: Epsilon from what was measured.
        evidence: Plain values for pictures and tables, by experiment.
    """

    sensitivity: float = 0.0
    noise: Array = field(default_factory=lambda: np.empty(0))
    sizes: Array = field(default_factory=lambda: np.empty(0))
    patients: int = 0
    bounds: dict[str, float] = field(default_factory=dict)
    ceiling: float = 0.0
    parametric: Estimate | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """One experiment: what it is called, its tests, and what carries them out.

    Attributes:
        title: For the one who waits.
        random: Names of its tests that draw on chance.
        exact: Names of its tests that never fail a sound engine.
        carry_out: (level of each random test, what was seen before) -> outcomes.
    """

    title: str
    random: tuple[str, ...]
    exact: tuple[str, ...]
    carry_out: Callable[[float, Seen], list[Outcome]]

    def run(self, level: float, seen: Seen) -> list[Outcome]:
        """Return the outcome of every test.

        Raises:
            RunError: the engine stopped where no patient was out of the ordinary, so nothing was
                measured: that refutes no claim, and there is no verdict.
        """
        try:
            return self.carry_out(level, seen)
        except GrandroundsError:
            raise
        except Exception as error:  # what goes wrong in an engine may be of any type
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise RunError(
                f"the audit stopped at '{self.title}' without a verdict: {reason}",
                remedy="report this as a defect, with the command",
            ) from error
