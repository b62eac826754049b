"""An agent's doors around any handler, in this process."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from client.rpc.server import Options, Servers, start_servers
from common.wire import Envelope

LONG_S = 20.0
"""Longer than anything here takes: how long a test waits before it fails."""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name (pytest's own may not)."""
    folder = Path(tempfile.mkdtemp(prefix="gr-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def running(
    handler: Callable[[Envelope], Envelope],
    folder: Path,
    *,
    perform: Callable[[str, Any], Any] = lambda name, values: {},
    checks: dict[str, Callable[[], bool | None]] | None = None,
    **options: Any,
) -> Iterator[Servers]:
    servers = start_servers(
        handler, folder, perform=perform, checks=checks or {}, options=Options(**options)
    )
    try:
        yield servers
    finally:
        servers.stop(0.0)


def until(happened: Callable[[], bool], *, timeout_s: float = LONG_S) -> None:
    """Wait until something has happened in another thread or process."""
    end = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class SlowAgent:
    """Answers when it is let go, and tells how many it has begun and finished."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun: list[Envelope] = []
        self.finished = 0
        self.at_once = self.most_at_once = 0

    def __call__(self, request: Envelope) -> Envelope:
        self.begun.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.go_on.wait(LONG_S)
        self.at_once -= 1
        self.finished += 1
        return Envelope({"status": "ok", "round": request.header.get("round")})
