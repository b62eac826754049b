"""A site's own report in plain values, invented, for the tests of its page."""

from __future__ import annotations

import copy
from typing import Any

from common.report.site_values import SiteValues


def _judged(auc: float | None, slope: float) -> dict[str, Any]:
    names = ("accuracy", "brier", "calibration_slope", "calibration_intercept")
    figures = dict(zip(names, (0.8, 0.14, slope, -0.2), strict=True))
    figures |= {"auc": auc, "observed_expected": 0.95}
    tenths = [(0.05, 0.1, 30.0), (0.45, 0.5, 20.0), (0.95, 0.9, 12.0)]
    ends = {"auc_low": 0.7, "auc_high": 0.9} if auc else {"auc_low": None, "auc_high": None}
    return {"figures": figures, "tenths": tenths, **ends}


_VALUES: dict[str, Any] = {
    "site": "cleveland",
    "folder": "sites/cleveland",
    "made": "2026-03-01T12:00:00+00:00",
    "declared": 300,
    "noise_seed": None,
    "paused": False,
    "withdrawn": 2,
    "ledger": {"ok": True, "entries": 17, "what": "", "behind": None},
    "limit": {"epsilon": 8.0, "delta": 1e-3},
    "spent": {"epsilon": 3.5, "delta": 2e-4},
    "held": {"epsilon": 5.0, "delta": 2e-4},
    "cohorts": [
        {"cohort": "main", "together": ["main"], "spent": 3.5, "held": 5.0, "left": 3.0},
    ],
    "spending": [
        {"at": "2026-01-10T08:00:00+00:00", "study": "heart", "epsilon": 1.0, "cohorts": "main"},
        {"at": "2026-01-10T09:00:00+00:00", "study": "heart", "epsilon": 2.0, "cohorts": "main"},
        {"at": "2026-02-01T09:00:00+00:00", "study": "chest", "epsilon": 1.0, "cohorts": "main"},
        {"at": "2026-02-03T09:00:00+00:00", "study": "chest", "epsilon": 1.5, "cohorts": "main"},
    ],
    "studies": [
        {
            "study": "heart",
            "title": "Coronary disease",
            "digest": "ab" * 32,
            "cohort": "main",
            "approved": "2026-01-09T08:00:00+00:00",
            "is_open": True,
            "epsilon": 2.0,
            "delta": 1e-4,
            "runs": 1,
            "answered": 12,
            "planned": 12,
            "refusals": {"privacy budget would be exceeded": 3},
        },
        {
            "study": "chest",
            "title": "",
            "digest": "cd" * 32,
            "cohort": "main",
            "approved": "",
            "is_open": False,
            "epsilon": 1.5,
            "delta": 1e-4,
            "runs": 1,
            "answered": 4,
            "planned": 20,
            "refusals": {},
        },
    ],
    "models": [
        {
            "study": "heart",
            "title": "Coronary disease",
            "run": "run-1",
            "train": 200,
            "holdout": 62,
            "judged": {
                "received": _judged(0.81, 0.9),
                "adapted": _judged(0.84, 1.1),
                "local": _judged(None, 1.3),
            },
            "problem": "",
        },
        {
            "study": "chest",
            "title": "",
            "run": "run-2",
            "train": 0,
            "holdout": 0,
            "judged": {},
            "problem": "the cohort's file cannot be read",
        },
    ],
}


def example(**changes: Any) -> SiteValues:
    """Return the example with some values changed."""
    return copy.deepcopy({**_VALUES, **changes})  # type: ignore[return-value]
