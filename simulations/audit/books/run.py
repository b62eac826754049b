"""A coordinator's books: what a run's hospitals answered, against its plans and its report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.auditing.outcome import Outcome, judge
from common.errors import RunError
from common.report.words import DEPLOYED
from server.results import privacy_of
from server.store import METRICS
from simulations.audit.books.jobs import Job, read_jobs
from simulations.audit.books.values import EXACT, Books, accountants, at_most

_TERMS = ("private", "delta", "unit", "adjacency", "sigma", "clip", "sampling_rate", "steps")
_NOISE = "each hospital's own"


def run_books(folder: Path) -> Books:
    """Return a run's books with their tests.

    Raises:
        RunError: nothing was answered, or a job's plan is not there.
    """
    jobs = read_jobs(folder)
    metrics = _metrics(folder)
    protected = [job for job in jobs if job.plan.private]
    tests = [test for job in protected for test in _tests(job)]
    main = [j for j in jobs if metrics is None or j.plan.digest == metrics.get("study_digest")]
    if metrics is not None and main:
        tests += _report(main, metrics)
    shown = max(main or jobs, key=lambda job: job.cost(job.dearest).pld)
    claim = shown.plan.epsilon if shown.plan.private else math.inf
    privacy = privacy_of(shown.plan, noise=_NOISE) if metrics is None else metrics["privacy"]
    if metrics is not None:
        claim = privacy["epsilon"] if privacy.get("private") else math.inf
    return Books(
        f"Run {folder.name}",
        claim,
        shown.plan.delta,
        shown.cost(shown.dearest),
        tuple(tests),
        tuple(_line(job) for job in jobs),
        privacy,
        tuple(_remarks(jobs, metrics)),
    )


def _metrics(folder: Path) -> dict[str, Any] | None:
    path = folder / METRICS
    if not path.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {**values, "privacy": dict(values["privacy"])}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{str(path)!r} cannot be read: {error!r}",
            remedy="restore it from a backup; grandrounds sim run --resume writes it anew",
        ) from None


def _tests(job: Job) -> list[Outcome]:
    site, name, plan = job.dearest, job.name, job.plan
    cost = job.cost(site)
    words = f"{site} answered for epsilon {cost.pld:.4g}, the plan says {plan.epsilon:.4g}"
    return [
        *accountants(name, cost, said=job.priced(site)),
        at_most(f"L {name}: plan", cost.pld, plan.epsilon, words),
        _rounds(job),
        _receipts(job),
        _payments(job),
        _histograms(job),
    ]


def _rounds(job: Job) -> Outcome:
    """Answers to rounds that the plan has not, and rounds whose answers were counted otherwise."""
    last, odd = job.plan.study.rounds.count, 0
    good: dict[int, int] = {}
    for rows in job.answers.values():
        for row in rows:
            first = 1 if row["phase"] == "train" else last
            odd += not first <= row["round"] <= last
            if row["phase"] == "train" and row["status"] == "ok":
                good[row["round"]] = good.get(row["round"], 0) + 1
    odd += sum(row["replies"] != good.get(row["round"], 0) for row in job.rounds)
    words = f"{odd} answers or rounds are not the plan's {last} rounds"
    return judge(f"L {job.name}: rounds", statistic=odd, threshold=0, detail=words)


def _receipts(job: Job) -> Outcome:
    """No receipt may say less than what the hospital had answered by then."""
    worst, words = 0.0, "every receipt says at least what was answered"
    for site, rows in job.answers.items():
        for number, row in enumerate(rows, start=1):
            if row["epsilon"] is None:  # an infinite one
                continue
            due = job.priced(site, until=number)
            if due - row["epsilon"] > worst:
                worst = due - row["epsilon"]
                words = (
                    f"{site} said epsilon {row['epsilon']:.4g} in round {row['round']}, its "
                    f"answers come to {due:.4g}"
                )
    return judge(f"L {job.name}: receipts", statistic=worst, threshold=EXACT, detail=words)


def _payments(job: Job) -> Outcome:
    """No hospital may have answered more often than it says that it has paid."""
    worst, words = 0, "every hospital paid for each answer"
    for site, rows in job.answers.items():
        for number, row in enumerate(rows, start=1):
            unpaid = number - (row["reserves"] or 0)
            if unpaid > worst:
                worst = unpaid
                words = f"{site} answered {number} times and says that it paid {row['reserves']}"
    return judge(f"L {job.name}: payments", statistic=worst, threshold=0, detail=words)


def _histograms(job: Job) -> Outcome:
    """Every histogram was answered for, has the plan's noise and the plan's size."""
    plan = job.plan
    asked = {s for s, rows in job.answers.items() if any(r["phase"] == "evaluate" for r in rows)}
    odd = [
        site
        for site, (sigma, counts) in job.histograms.items()
        if site not in asked
        or sigma != plan.release_sigma
        or np.shape(counts) != plan.release_shape
    ]
    words = f"{len(job.histograms)} histograms; not the plan's: {', '.join(odd) or 'none'}"
    return judge(f"L {job.name}: histograms", statistic=len(odd), threshold=0, detail=words)


def _report(jobs: list[Job], metrics: Mapping[str, Any]) -> list[Outcome]:
    """What the report promises, against what its own jobs released."""
    plan, privacy = jobs[0].plan, metrics["privacy"]
    is_real = metrics.get("engine") == DEPLOYED  # a simulation's noise is seeded, and says so
    seeded = sorted({site for job in jobs for site in job.seeded if is_real})
    due = {name: value for name, value in privacy_of(plan, noise="").items() if name in _TERMS}
    odd = [name for name, value in due.items() if name in privacy and privacy[name] != value]
    if seeded and not privacy.get("private") and "private" in odd:
        odd.remove("private")  # taken back, as it must be
    elif seeded and privacy.get("private"):
        odd.append(f"private (noise was seeded at {', '.join(seeded)})")
    words = f"differs from the plan: {', '.join(odd) or 'nothing'}"
    tests = [judge("L report: terms", statistic=len(odd), threshold=0, detail=words)]
    if plan.private and privacy.get("epsilon") is not None:
        spent = max(job.cost(job.dearest).pld for job in jobs)
        said = [r["epsilon"] or 0.0 for j in jobs for rows in j.answers.values() for r in rows]
        most = max(spent, *said)
        words = f"the report says {privacy['epsilon']:.4g}; answers and receipts {most:.4g}"
        tests.append(at_most("L report: epsilon", most, privacy["epsilon"], words))
    return tests


def _line(job: Job) -> dict[str, Any]:
    plan, site = job.plan, job.dearest
    said = [r["epsilon"] for rows in job.answers.values() for r in rows if r["epsilon"] is not None]
    cost = job.cost(site)
    return {
        "name": job.name,
        "digest": plan.digest,
        "delta": plan.delta,
        "claimed": plan.epsilon if plan.private else math.inf,
        "said": max(said, default=math.inf),
        "pld": cost.pld,
        "prv": cost.prv,
        "sums": sum(e.count for e in job.events(site) if e.part != "holdout"),
        "planned": plan.steps,
    }


def _remarks(jobs: Iterable[Job], metrics: Mapping[str, Any] | None) -> Iterable[str]:
    if metrics is None:
        yield "the run has not ended: there is no report yet to compare with"
    for job in jobs:
        if not job.plan.private:
            yield f"{job.name} is not private and claims nothing, so nothing of it was tested"
        more = {
            site: rows[-1]["reserves"] - len(rows)
            for site, rows in job.answers.items()
            if (rows[-1]["reserves"] or 0) > len(rows)
        }
        for site, count in more.items():
            yield (
                f"{job.name}: {site} paid for {count} releases that this run did not get (a crash, "
                "or an earlier run of the study)"
            )
