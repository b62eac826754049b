"""How long a site's ledger takes to verify, and to say what was spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from client.ledger import Key, Ledger
from client.policy.spending import total
from common.errors import EngineError
from common.privacy.events import gaussian

ENTRIES, CHARGED_ROUNDS = 10_000, 500


def ledger_seconds(
    folder: Path, *, entries: int = ENTRIES, rounds: int = CHARGED_ROUNDS
) -> dict[str, float]:
    """Return how long a ledger takes to verify, and to say what was spent: cold, then cached."""
    seconds = {}
    with closing(_filled(folder / "long.sqlite", releases=entries // 2)) as ledger:
        seconds["verify"], verdict = _timed(ledger.verify)
        if not verdict.ok or verdict.entries != entries:
            raise EngineError(f"the ledger does not verify: {verdict}", remedy="report this")
    _filled(folder / "spent.sqlite", releases=rounds).close()
    with closing(Ledger(folder / "spent.sqlite")) as ledger:
        for name in ("cold", "cached"):
            seconds[name], _ = _timed(lambda: total(ledger.accounts(), plan_of=lambda _: None))
    return seconds


def _filled(path: Path, *, releases: int) -> Ledger:
    """Return a ledger on disk with so many rounds reserved and committed."""
    ledger = Ledger(path)
    price = [gaussian(sigma=2.0, sampling_rate=0.05, count=5, part="train")]
    with ledger.transaction():  # one fsync for all
        for number in range(1, releases + 1):
            key = Key("5eed" * 16, "benchmark", "train", number)
            ledger.commit(ledger.reserve(key, delta=1e-4, events=price), key, bytes(1000))
    return ledger


def _timed(act: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = act()
    return time.perf_counter() - started, value
