"""Collects a site's own report: from its ledger, its approved studies and its own patients."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.desk import received
from client.desk.budget import Budget, CohortLine, Purse, budget_of
from client.desk.burn_down import burn_down
from client.desk.cohorts import Groups
from client.ledger import Account, Ledger
from client.patients.judging import Bench
from client.patients.uses import known_plans
from client.policy import Reason
from client.site import Site, load_site
from common.errors import GrandroundsError
from common.files import write_atomic
from common.plan import Plan
from common.privacy.accounting import epsilon
from common.report.site_page import site_html
from common.report.site_values import CohortRow, ModelRow, SiteValues, Spent, StudyRow

REPORT = "report.html"
_POINTS = 24  # of the picture; each may ask the accountant for half a second


def write_report(folder: Path, values: SiteValues) -> Path:
    """Write DIR/report.html, which only the hospital's own user can read; return its path."""
    path = folder / REPORT
    write_atomic(path, site_html(values), mode=0o600)
    return path


def site_values(folder: Path, ledger: Ledger, *, now: datetime | None = None) -> SiteValues:
    """Collect everything that a site's own report shows.

    Args:
        folder: The site's folder.
        ledger: Its ledger.
        now: When the report is made; default now.

    Raises:
        SiteError: the folder is malformed.
    """
    site = load_site(folder)
    plans = _plans(site, ledger)
    verdict = ledger.verify()
    accounts = ledger.accounts()
    groups = Groups(site, ledger)
    purses = budget_of(accounts, policy=site.policy, plans=site.plans(), groups=groups)
    return {
        "site": site.cohort.name,
        "folder": str(folder),
        "made": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
        "declared": site.cohort.declared,
        "noise_seed": site.policy.noise_seed,
        "paused": ledger.paused(),
        "withdrawn": len(ledger.withdrawn()),
        "ledger": {
            "ok": verdict.ok,
            "entries": verdict.entries,
            "what": verdict.what,
            "behind": ledger.behind,
        },
        "limit": {"epsilon": purses.epsilon.limit, "delta": purses.delta.limit},
        "spent": _of(purses, lambda purse: purse.spent),
        "held": _of(purses, lambda purse: purse.spent + purse.reserved),
        "cohorts": [_cohort(line) for line in purses.cohorts],
        "spending": _spending(ledger, _labels(plans, [a.digest for a in accounts]), groups),
        "studies": _studies(site, ledger, plans, groups),
        "models": [_model(site, ledger, run) for run in received.runs(folder)],
    }


def _cohort(line: CohortLine) -> CohortRow:
    held = line.epsilon.spent + line.epsilon.reserved
    return {
        "cohort": line.cohort,
        "together": list(line.together),
        "spent": _bounded(line.epsilon.spent),
        "held": _bounded(held),
        "left": _bounded(line.epsilon.left),
    }


def _of(budget: Budget, figure: Callable[[Purse], float]) -> dict[str, float | None]:
    return {
        "epsilon": _bounded(figure(budget.epsilon)),
        "delta": _bounded(figure(budget.delta)),
    }


def _bounded(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plans(site: Site, ledger: Ledger) -> dict[str, Plan | None]:
    """Return every study that the ledger or the folder knows; None where its plan is gone."""
    plans: dict[str, Plan | None] = dict(known_plans(site))
    for account in ledger.accounts():
        plans.setdefault(account.digest, None)
    return plans


def _labels(plans: dict[str, Plan | None], digests: Iterable[str]) -> dict[str, str]:
    """Name each study in the picture; two of one name are told apart by their digests."""
    names = {digest: plan.study.name if plan else "study" for digest, plan in plans.items()}
    count = Counter(names[digest] for digest in digests)
    return {d: n if count[n] < 2 and plans[d] else f"{n} {d[:6]}" for d, n in names.items()}


def _spending(ledger: Ledger, labels: dict[str, str], groups: Groups) -> list[Spent]:
    return [
        {
            "at": point.at,
            "study": labels[point.digest],
            "epsilon": _bounded(point.study),
            "cohorts": ", ".join(group),
        }
        for point in burn_down(ledger.entries(), groups, most=_POINTS)
        for group in groups.paying(point.digest)
    ]


def _studies(
    site: Site, ledger: Ledger, plans: dict[str, Plan | None], groups: Groups
) -> list[StudyRow]:
    accounts = {account.digest: account for account in ledger.accounts()}
    approvals = {e.body.get("digest"): e.at for e in ledger.entries("approval")}
    refusals = _refusals(ledger)
    answered = _answered(ledger)
    rows = []
    for digest, plan in plans.items():
        account = accounts.get(digest, Account(digest, 0.0))
        row = _empty_row(digest) if plan is None else _row(plan, runs=len(account.runs))
        row["cohort"] = groups.cohort(digest)
        row["approved"] = approvals.get(digest, "")
        row["is_open"] = site.plan_path(digest) is not None
        row["epsilon"] = _bounded(epsilon(account.events, delta=account.delta))
        row["delta"], row["runs"] = account.delta, len(account.runs)
        row["answered"] = answered[digest]
        row["refusals"] = dict(refusals.pop(digest, {}))
        rows.append(row)
    if refusals:  # what a coordinator asked of studies that were never approved
        others = _empty_row("")
        others["title"] = "studies never approved here"
        others["refusals"] = dict(sum(refusals.values(), Counter()))
        rows.append(others)
    return rows


def _row(plan: Plan, *, runs: int) -> StudyRow:
    row = _empty_row(plan.digest)
    row["study"], row["title"] = plan.study.name, plan.study.title
    row["planned"] = plan.study.rounds.count * max(runs, 1)
    return row


def _empty_row(digest: str) -> StudyRow:
    return {
        "study": "",
        "title": "",
        "digest": digest,
        "cohort": "",
        "approved": "",
        "is_open": False,
        "epsilon": 0.0,
        "delta": 0.0,
        "runs": 0,
        "answered": 0,
        "planned": 0,
        "refusals": {},
    }


def _refusals(ledger: Ledger) -> dict[str, Counter[str]]:
    """Count requests refused, by study and reason; the ledger has the first of each kind."""
    found: dict[str, Counter[str]] = {}
    for entry in ledger.entries("refusal"):
        digest = str(entry.body.get("digest", ""))
        found.setdefault(digest, Counter())[_reason(entry.body)] += 1
    return found


def _answered(ledger: Ledger) -> Counter[str]:
    """Count the training rounds answered, by study."""
    commits = (entry.body for entry in ledger.entries("commit"))
    keys = {(b["digest"], b["run"], b["round"]) for b in commits if b["phase"] == "train"}
    return Counter(digest for digest, _, _ in keys)


def _reason(body: Mapping[str, Any]) -> str:
    name = str(body.get("reason", ""))
    return Reason[name].value if name in Reason.__members__ else name


def _model(site: Site, ledger: Ledger, run: str) -> ModelRow:
    """Judge one delivered model on the hospital's own patients, beside its two rivals."""
    row: ModelRow = {
        "study": "",
        "title": "",
        "run": run,
        "train": 0,
        "holdout": 0,
        "judged": {},
        "problem": "",
    }
    try:
        bench = Bench(site, ledger, received.load(site.folder, run))
        study = bench.received.plan.study
        row["study"], row["title"] = study.name, study.title
        row["train"], row["holdout"] = bench.cohort.train.patients, bench.cohort.holdout.patients
        weights = {
            "received": bench.received.params,
            "adapted": bench.adapted,
            "local": bench.local,
        }
        row["judged"] = {form: bench.judge(params) for form, params in weights.items()}
    except GrandroundsError as error:  # one model's trouble is not the report's
        row["problem"] = error.message
    return row
