"""The record of an approval that an ethics board can read and file: who, when, what, cost."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version

from client.desk.opinion import Opinion
from client.site import Site
from common.plan import Plan
from common.review import review


def approval_record(
    site: Site, plan: Plan, opinion: Opinion, *, by: str, runs: int, changes: list[str]
) -> str:
    """Return the record, Markdown; it holds declared figures only, no count of patients.

    Args:
        site: Who approves: the hospital, with the cohort that the study will use chosen.
        plan: What is approved.
        opinion: What its policy says.
        by: Who approves: the person.
        runs: How many runs the approval covers.
        changes: Rules that differ from an earlier approval of a study of that name.
    """
    words = review(plan)
    study = plan.study
    lines = [
        f"# Approval of study {study.title or study.name}",
        "",
        f"- Hospital: {site.cohort.name}",
        f"- Approved by: {by}",
        f"- When: {datetime.now().astimezone().isoformat(timespec='seconds')}",
        f"- Study: {study.name}",
        f"- Digest (SHA-256 of all its rules): `{plan.digest}`",
        f"- Runs covered: {runs}",
        f"- Cohort: {site.cohort_name}",
        f"- Declared size of the cohort: {site.cohort.declared} patients (rounded, public)",
        f"- Program: grandrounds {version('grandrounds')}",
        "",
        *_section("What the hospital computes", words.computes),
        *_section("What leaves it", words.leaves),
        *_section("What stays", words.stays),
        *_section("What a patient spends in one run", words.spends),
        *_section("The hospital's budget for a patient's life", _budget(site, opinion)),
        *_section("What its policy says", _rules(opinion)),
    ]
    if changes:
        lines += _section("What is new since the earlier approval of this study", changes)
    lines += ["Signed: ______________________________    Date: ____________", ""]
    return "\n".join(lines)


def _section(title: str, sentences: list[str] | tuple[str, ...]) -> list[str]:
    return [f"## {title}", "", *(f"- {sentence}" for sentence in sentences), ""]


def _budget(site: Site, opinion: Opinion) -> list[str]:
    (e0, d0), (e1, d1) = opinion.spent, opinion.after
    policy = site.policy
    lines = [
        f"counted together: the studies of cohort {', '.join(opinion.cohorts)}",
        f"allowed: epsilon {policy.epsilon:g}, delta {policy.delta:g}",
        f"spent or held before: epsilon {e0:.4g}, delta {d0:.3g}",
        f"with all runs of this study: epsilon {e1:.4g}, delta {d1:.3g}",
    ]
    if opinion.shared is None:
        lines.append("the hospital vouches that no patient of the cohort is in another of its own")
    if policy.noise_seed is not None:
        lines.append("SEEDED NOISE: nothing released is private; for development only")
    return lines


def _rules(opinion: Opinion) -> list[str]:
    return [f"{r.name}: {r.limit}; {r.found}" for r in opinion.rules]
