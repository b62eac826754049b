"""The `site` commands about studies: review, approve, revoke."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding

from client.commands.shared import (
    AsJson,
    By,
    Cohort,
    Folder,
    compiled,
    console,
    figure,
    show,
    table,
    view_of,
)
from common.startup import importing

if TYPE_CHECKING:
    from client.desk.opinion import Opinion
    from client.site import Site
    from common.plan import Plan

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (TOML).")]
Runs = Annotated[
    int | None,
    typer.Option(
        min=1, help="How many runs of the study, in all; by default as many as the policy lets."
    ),
]


def register(app: typer.Typer) -> None:
    """Mount `review`, `approve` and `revoke` on the `site` group."""
    app.command(epilog="Example: grandrounds site review sites/cleveland heart.toml")(review)
    app.command(
        epilog="Example: grandrounds site approve sites/cleveland heart.toml --by 'Dr A. Jones'"
    )(approve)
    app.command(epilog="Example: grandrounds site revoke sites/cleveland heart")(revoke)


def review(
    folder: Folder,
    study: StudyFile,
    cohort: Cohort = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Say in plain words what a study computes, releases and costs, and what the policy says."""
    with importing():
        from client.desk.administration import opened
        from client.desk.changes import changed_rules
        from client.desk.opinion import judge
        from client.site import load_site
        from common.review import review as in_words

    plan, site = compiled(study), load_site(folder)
    with opened(folder) as desk:
        site = view_of(site, desk.ledger, plan, cohort)
        opinion = judge(site, desk.ledger, plan, runs=site.policy.runs if runs is None else runs)
    changes = changed_rules(site, plan)
    if as_json:
        values = {**in_words(plan).to_json(plan), **_opinion_json(site, plan, opinion)}
        typer.echo(json.dumps({**values, "changes": changes}, indent=2))
    else:
        _print_review(site, plan, opinion, changes)
    if opinion.objections:
        raise typer.Exit(1)


def _opinion_json(site: Site, plan: Plan, opinion: Opinion) -> dict[str, Any]:
    policy = site.policy
    left = [
        {"epsilon": policy.epsilon - epsilon, "delta": policy.delta - delta}
        for epsilon, delta in (opinion.spent, opinion.after)
    ]
    rules = [
        {
            "rule": r.name,
            "limit": r.limit,
            "study": r.found,
            "allowed": r.reason is None,
            "objection": None if r.reason is None else str(r.reason),
            "remedy": r.remedy or None,
        }
        for r in opinion.rules
    ]
    return {
        "allowed": not opinion.objections,
        "approved": site.plan_path(plan.digest) is not None,
        "cohort": site.cohort_name,
        "counted_together": list(opinion.cohorts),
        "rules": rules,
        "left_before": left[0],
        "left_after": left[1],
        "seeded_noise": policy.noise_seed is not None,
    }


def _print_review(site: Site, plan: Plan, opinion: Opinion, changes: list[str]) -> None:
    from client.policy import SEEDED
    from common.review import review as in_words

    out, words = console(), in_words(plan)
    title = escape(plan.study.title or plan.study.name)
    out.print(f"\n[bold]{title}[/]  [dim]digest {plan.digest[:16]}[/]\n")
    sections = [
        (f"{site.cohort.name} would", words.computes),
        ("What leaves the hospital", words.leaves),
        ("What stays", words.stays),
        ("What a patient spends in one run", words.spends),
    ]
    if changes:
        sections.append(("New since the study of this name that is approved", tuple(changes)))
    for heading, sentences in sections:
        out.print(f"[bold]{escape(heading)}[/]")
        for sentence in sentences:
            out.print(Padding(escape(sentence), (0, 0, 0, 4)))
        out.print()
    rows = [(r.name, r.limit, r.found, str(r.reason or "allowed")) for r in opinion.rules]
    out.print(table("What the policy says", ("rule", "limit", "study", "verdict"), rows))
    for rule in opinion.objections:
        out.print(f"[bold red]{escape(str(rule.reason))}:[/] {escape(rule.remedy)}")
    values = _opinion_json(site, plan, opinion)
    columns = ("left in a patient's life", "before", "after all runs")
    left = [
        (k, figure(values["left_before"][k]), figure(values["left_after"][k]))
        for k in ("epsilon", "delta")
    ]
    out.print(table("Budget", columns, left))
    out.print(
        f"Cohort {escape(site.cohort_name)}; studies that add up are those of cohort "
        f"{escape(', '.join(opinion.cohorts))}."
    )
    if site.is_disjoint and opinion.shared is not None:
        out.print(f"It is marked disjoint and does not stand alone: {escape(opinion.shared)}.")
    if site.policy.noise_seed is not None:
        out.print(f"[bold red]{SEEDED}[/]")


def approve(
    folder: Folder,
    study: StudyFile,
    cohort: Cohort = None,
    by: By = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Approve a study, so that the agent answers for it, and write a record for the board."""
    with importing():
        from client.desk.administration import perform
        from client.desk.approval import user_name
        from common.study import load_study

    rules = load_study(study).rules()
    chosen = {"study": rules, "origin": str(study), "cohort": cohort}
    found = perform(folder, "approve", **chosen, by=by or user_name(), runs=runs)
    lines = [
        f"Study {found['study']} is approved by {found['by']} for {found['runs']} run(s).",
        f"  cohort    {found['cohort']}",
        f"  digest    {found['digest']}",
        f"  record    {found['record']}",
        f"  patients  {found['patients']} fit it (for the hospital's eyes only)",
        f"  left then epsilon {figure(found['left']['epsilon'])}, "
        f"delta {figure(found['left']['delta'])}",
        *(f"  note      {note}" for note in found["notes"]),
        *(f"  new rule  {change}" for change in found["changes"]),
    ]
    show(found, "\n".join(lines), as_json=as_json)


def revoke(
    folder: Folder,
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="Its name, or its digest or its beginning.")
    ],
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Take an approval back: the agent refuses the study at once. What was spent stays spent."""
    with importing():
        from client.desk.administration import perform
        from client.desk.approval import user_name

    found = perform(folder, "revoke", study=study, by=by or user_name())
    show(found, f"Study {found['digest'][:16]} is revoked.", as_json=as_json)
