"""At most so many a minute: a flood of refusals must not fill the hospital's disk."""

from __future__ import annotations

import time
from collections.abc import Callable


class Throttle:
    """Lets through `burst` at once and then one every `every_s` seconds; counts the others.

    Args:
        burst: How many may come at once.
        every_s: Seconds after which one more may come.
        clock: Seconds that only go forward.
    """

    def __init__(
        self, *, burst: int, every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst, self._every_s, self._clock = burst, every_s, clock
        self._tokens, self._since = float(burst), clock()
        self._dropped = 0

    def admit(self) -> int | None:
        """Return how many were dropped since the last that came through; None drops this one."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._since) / self._every_s)
        self._since = now
        if self._tokens < 1:
            self._dropped += 1
            return None
        self._tokens -= 1
        dropped, self._dropped = self._dropped, 0
        return dropped
