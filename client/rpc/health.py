"""How the agent is, as grpc.health.v1 tells it: data, device, budget, superlink, and all of it.

Whether the agent lives is another question, which any answer settles. That its patients' files
changed or that its budget is spent is for the administrator alone: the relay cannot ask.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse

Check = Callable[[], bool | None]
"""Whether a part is well; None where the site has no such part."""

OVERALL: Final = ""
SERVICES: Final = ("data", "device", "budget", "superlink")

# A SuperLink out of reach is not this agent's illness.
_NEEDED = ("data", "device", "budget")
_EVERY_S = 5.0
_SHARE = 20  # checks that take long are made more rarely: at most a twentieth of the time

log = logging.getLogger(__name__)


class Monitor:
    """Looks at the parts again and again, and tells those who watch when one changes.

    Args:
        servicer: Answers Check and Watch.
        checks: Part -> its check.
        every_s: Seconds between two looks.
    """

    def __init__(
        self, servicer: HealthServicer, checks: Mapping[str, Check], *, every_s: float = _EVERY_S
    ) -> None:
        self._servicer = servicer
        self._checks = dict(checks)
        self._every_s = every_s
        self._told: dict[str, bool] = {}
        self._looking = threading.Lock()
        self._wake = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._go_on, name="health", daemon=True)
        servicer.set(OVERALL, HealthCheckResponse.NOT_SERVING)

    def start(self) -> None:
        """Look once, then in the background."""
        self.look()
        self._thread.start()

    def look_soon(self) -> None:
        """Look again now, in the background: something happened."""
        self._wake.set()

    def stop(self) -> None:
        """Tell everybody that this is the end, and look no more."""
        self._is_over = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=1.0)
        self._servicer.enter_graceful_shutdown()

    def look(self) -> None:
        """Make every check, and tell what has changed."""
        with self._looking:
            well = {name: _is_well(name, check) for name, check in self._checks.items()}
            for name, is_well in well.items():
                if is_well is not None:
                    self._tell(name, is_well)
            self._tell(OVERALL, all(well.get(name) is not False for name in _NEEDED))

    def _tell(self, name: str, is_well: bool) -> None:
        if self._told.get(name) is is_well:
            return
        self._told[name] = is_well
        status = HealthCheckResponse.SERVING if is_well else HealthCheckResponse.NOT_SERVING
        self._servicer.set(name, status)
        log.info("health of %s: %s", name or "the agent", "well" if is_well else "not well")

    def _go_on(self) -> None:
        pause_s = self._every_s
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            if self._is_over:
                return
            start = time.monotonic()
            self.look()
            pause_s = max(self._every_s, _SHARE * (time.monotonic() - start))


def _is_well(name: str, check: Check) -> bool | None:
    try:
        return check()
    except Exception as error:  # a check that fails says that its part is not well
        log.warning("health of %s cannot be checked: %r", name, error)
        return False
