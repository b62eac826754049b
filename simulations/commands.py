"""The `sim` commands. Heavy imports wait for the command, so that help is quick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from common.startup import importing

app = typer.Typer(
    help="Simulate many hospitals on one machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

StudyFile = Annotated[
    str | None,
    typer.Argument(
        metavar="[STUDY]",
        help="A study file, or the name of a study that comes with grandrounds: breast_cancer "
        "(the default; needs no data), heart.",
        show_default=False,
    ),
]


@app.callback()
def _group() -> None:
    pass


@app.command(epilog="Example: grandrounds sim run heart --data DATA --epsilon 3 --seeds 5")
def run(
    study: StudyFile = None,
    data: Annotated[Path | None, typer.Option(
        help="Folder of the hospitals' files.", envvar="GRANDROUNDS_DATA")] = None,
    out: Annotated[Path | None, typer.Option(
        help="The run folder to make [default: runs/STUDY-TIME].")] = None,
    engine: Annotated[str, typer.Option(
        help="'inprocess', or 'flower' for Flower's simulation on Ray.")] = "inprocess",
    arms: Annotated[str | None, typer.Option(
        help="Arms to compare, with commas: majority,local,pooled,fedavg,fedprox,reptile.")] = None,
    epsilon: Annotated[str | None, typer.Option(
        help="Another target epsilon, or 'none' for no privacy: another study.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The first seed.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds.")] = None,
    split: Annotated[str | None, typer.Option(
        help="'keyed', or 'stratified' to compare with published tables.")] = None,
    resume: Annotated[Path | None, typer.Option(
        metavar="RUN_DIR", help="Go on with an interrupted run, as it was started.")] = None,
    as_json: Annotated[bool, typer.Option(
        "--json", help="Print the metrics alone, as JSON.")] = False,
) -> None:  # fmt: skip
    """Run a study's hospitals on this machine, compare arms, and write a report."""
    with importing():
        from rich.console import Console

        from simulations.display import print_metrics
        from simulations.session import resume_settings, run_session, start_settings

    options = {"arms": arms, "epsilon": epsilon, "seed": seed, "seeds": seeds, "split": split}
    if resume is not None:
        settings = resume_settings(resume, study=study, out=out, options=options, engine=engine)
    else:
        settings = start_settings(study, data=data, out=out, options=options, engine=engine)
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    metrics = run_session(settings, messages)
    if as_json:
        typer.echo(json.dumps(metrics, indent=2, allow_nan=False))
        return
    print_metrics(Console(highlight=False), metrics)
    typer.echo(f"report: {settings.run_dir / 'report.html'}")
