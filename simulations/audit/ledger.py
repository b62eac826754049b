"""The audit of books: a site's ledger, or a coordinator's run, recomputed from events alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.auditing.outcome import Audit, Registered
from common.errors import SiteError
from common.intervals import Estimate
from simulations.audit.books.run import run_books
from simulations.audit.books.site import site_books
from simulations.audit.books.values import Books, finite_values


def audit_ledger(folder: Path) -> tuple[Audit, dict[str, Any]]:
    """Audit the books in a folder; return the audit and the plain values of its page.

    Args:
        folder: A site's, or that of a run.

    Raises:
        GrandroundsError: there are no books or nothing in them, or they cannot be believed: then
            there is nothing to give a verdict of.
    """
    books = _reader(folder)(folder)
    is_claim = math.isfinite(books.claimed)
    audit = Audit(
        books.claimed,
        books.delta,
        Registered(random=(), exact=tuple(test.name for test in books.tests)),
        books.tests,
        parametric=Estimate(None, *sorted((books.total.pld, books.total.prv))),
        # Recomputing can refute any claim but none.
        ceiling_epsilon=math.inf if is_claim else 0.0,
    )
    values = {
        **audit.to_json(),
        "kind": "ledger",
        "title": books.about,
        "folder": str(folder),
        "studies": [finite_values(line) for line in books.lines],
        "privacy": finite_values(books.privacy),
        "remarks": list(books.remarks),
    }
    return audit, values


def _reader(folder: Path) -> Callable[[Path], Books]:
    if (folder / "run.sqlite").is_file():
        return run_books
    if (folder / "cohort.toml").is_file():
        return site_books
    raise SiteError(
        f"folder {str(folder)!r} holds neither a site's cohort.toml nor a run's run.sqlite",
        remedy="give the folder of a site, or of one run: DIR/runs/RUN of a coordinator's",
    )
