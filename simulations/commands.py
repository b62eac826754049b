"""The `sim` commands. Heavy imports wait for the command, so that help is quick."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

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
        "(the default; needs no data), heart, heart_flamby, indomethacin, chestxray, ...",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None, typer.Option(help="Folder of the hospitals' files.", envvar="GRANDROUNDS_DATA")
]
Out = Annotated[
    Path | None, typer.Option(help="The run folder to make [default: runs/STUDY-TIME].")
]
EngineName = Annotated[
    str | None,
    typer.Option(help="'inprocess' [default], or 'flower' for Flower's simulation on Ray."),
]
Epsilon = Annotated[
    str | None,
    typer.Option(help="Another target epsilon, or 'none' for no privacy: another study."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="The first seed.")]
Split = Annotated[
    str | None,
    typer.Option(help="'keyed', or 'stratified' or 'given' to compare with published tables."),
]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="RUN_DIR", help="Go on with an interrupted run, as it was started."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the metrics alone, as JSON.")]


@app.callback()
def _group() -> None:
    pass


@app.command(epilog="Example: grandrounds sim run heart --data DATA --epsilon 3 --seeds 5")
def run(
    study: StudyFile = None,
    data: Data = None,
    out: Out = None,
    engine: EngineName = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Arms to compare, with commas: majority,local,pooled,fedavg,fedprox,reptile."
        ),
    ] = None,
    epsilon: Epsilon = None,
    seed: Seed = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds.")] = None,
    split: Split = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Run a study's hospitals on this machine, compare arms, and write a report."""
    options = {"arms": arms, "epsilon": epsilon, "seed": seed, "seeds": seeds, "split": split}
    _session("run", study, out, options | {"data": data, "engine": engine}, resume, as_json)


@app.command(epilog="Example: grandrounds sim loho heart --data DATA --epsilon 3 --shots 0,16")
def loho(
    study: StudyFile = None,
    data: Data = None,
    out: Out = None,
    engine: EngineName = None,
    shots: Annotated[
        str | None,
        typer.Option(help="Numbers of labelled patients, with commas [default: 0,16,32]."),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Draws of labelled patients [default: 30].")
    ] = None,
    epsilon: Epsilon = None,
    seed: Seed = None,
    split: Split = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Leave one hospital out, each in turn: how does the model do where nobody trained it?"""
    options = {"shots": shots, "draws": draws, "epsilon": epsilon, "seed": seed, "split": split}
    _session("loho", study, out, options | {"data": data, "engine": engine}, resume, as_json)


@app.command(epilog="Example: grandrounds sim fewshot rare_disease --data DATA --shots 5,20")
def fewshot(
    study: StudyFile = None,
    data: Data = None,
    out: Out = None,
    engine: EngineName = None,
    ways: Annotated[
        str | None,
        typer.Option(help="Classes of an episode: 'all' of the new hospital's, or a number."),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(
            help="Labelled patients of each class, with commas [default: 5,20]; of two classes "
            "also pairs: 5/20 is 5 of the positive and 20 of the other."
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Draws of labelled patients [default: 200].")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Methods, with commas: ARM+USE, or a baseline [default: the study's]."),
    ] = None,
    epsilon: Epsilon = None,
    seed: Seed = None,
    split: Split = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Meet a new hospital with a few labelled cases, each in turn, after training without it."""
    own = {"ways": ways, "shots": shots, "episodes": episodes, "methods": methods}
    options = {**own, "epsilon": epsilon, "seed": seed, "split": split}
    _session("fewshot", study, out, options | {"data": data, "engine": engine}, resume, as_json)


def _session(
    command: str,
    study: str | None,
    out: Path | None,
    options: dict[str, Any],
    resume: Path | None,
    as_json: bool,
) -> None:
    with importing():
        from rich.console import Console

        from simulations.session import run_session, work_of
        from simulations.settings import resume_settings, start_settings

    if resume is not None:
        settings = resume_settings(resume, command=command, study=study, out=out, options=options)
    else:
        settings = start_settings(study, command=command, out=out, options=options)
    work = work_of(command, settings.study)
    metrics = run_session(settings, work, Console(stderr=True, highlight=False, soft_wrap=True))
    if as_json:
        typer.echo(json.dumps(metrics, indent=2, allow_nan=False))
        return
    # A pipe has no width of its own; eighty columns would cut the tables.
    width = None if sys.stdout.isatty() else 110
    work.show(Console(highlight=False, width=width), metrics)
    typer.echo(f"report: {settings.run_dir / 'report.html'}")
