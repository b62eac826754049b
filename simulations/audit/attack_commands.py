"""`audit attack`: what a coordinator could do with a study's deltas. Heavy imports wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from common.startup import importing
from simulations.commands import AsJson, Data, Seed


def attack(
    study: Annotated[
        str, typer.Argument(help="A study file, or the name of a study that comes with it.")
    ],
    kind: Annotated[
        str,
        typer.Option(help="'inversion': read a patient off a delta; 'membership': who took part."),
    ],
    data: Data = None,
    seed: Seed = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None, typer.Option(help="The folder to make [default: audit/STUDY-KIND-TIME].")
    ] = None,
) -> None:
    """Attack a study's deltas in a simulation, with the study's privacy and without."""
    with importing():
        import torch

        from common.errors import StudyError
        from simulations.audit.attacks.study import KINDS, attack_study
        from simulations.audit.output import audit_folder
        from simulations.settings import start_settings
        from simulations.world import scenario_of

    known = next((k for k in KINDS if k == kind), None)
    if known is None:
        raise StudyError(f"--kind is {kind!r}", remedy=f"use {' or '.join(map(repr, KINDS))}")
    options = {"data": data, "seed": seed}
    settings = start_settings(study, command="run", out=Path(), options=options)
    folder = audit_folder(out, f"{settings.study.name}-{kind}")
    torch.set_num_threads(1)  # small models lose more to waiting threads than they gain
    values = attack_study(
        settings.study,
        kind=known,
        seed=scenario_of(settings.study).seed,
        weights_from=settings.study_folder,
    )
    _write(folder, values)
    _tell(folder, values, as_json)


def _write(folder: Path, values: dict[str, Any]) -> None:
    from common.files import write_atomic
    from common.report.attack_page import attack_html

    mode = 0o600 if values["contains_patient_data"] else 0o644
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=1, allow_nan=False)
    write_atomic(folder / "audit.json", text + "\n", mode=mode)
    write_atomic(folder / "report.html", attack_html(values), mode=mode)


def _tell(folder: Path, values: dict[str, Any], as_json: bool) -> None:
    from common.report.attack_page import attack_verdict

    if as_json:  # without patients: what is printed is soon somewhere else
        told = {k: v for k, v in values.items() if k != "patients"}
        typer.echo(json.dumps({**told, "contains_patient_data": False}, indent=2, allow_nan=False))
        return
    typer.echo(attack_verdict(values))
    if values["contains_patient_data"]:
        typer.echo(f"{folder} holds patients' data: it must not leave whoever may see them")
    typer.echo(f"report: {folder / 'report.html'}")
