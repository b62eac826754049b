"""The `audit` commands. Heavy imports wait for the command, so that help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.startup import importing
from simulations.audit.attack_commands import attack
from simulations.commands import Data

app = typer.Typer(
    help="Test what is promised: this installation, a study, a ledger.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path | None, typer.Option(help="The folder to make; by default audit/WHAT-TIME.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result alone, as JSON.")]


@app.callback()
def _group() -> None:
    pass


@app.command(epilog="Example: grandrounds audit engine --model conv4 --full")
def engine(
    model: Annotated[str, typer.Option(help="'mlp', 'logistic' or 'conv4'.")] = "mlp",
    learner: Annotated[str, typer.Option(help="The learner, as a study names it.")] = "reptile",
    device: Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda' or 'cuda:0'.")] = "auto",
    full: Annotated[
        bool,
        typer.Option("--full/--quick", help="Every way that a step can be taken, more canaries."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of patients, weights and coins.")] = 0,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Test this installation: can its noise, its clip and its sampling be what they claim?

    Exits with 1 where a test failed. A passed audit proves nothing: nobody refuted the claim.
    """
    with importing():
        from rich.console import Console

        from simulations.audit.engine import FULL, QUICK, audit_engine, described
        from simulations.audit.installation import ways_of
        from simulations.audit.output import audit_folder, conclude

    ways = ways_of(model, learner, device=device, full=full)
    folder = audit_folder(out, f"engine-{model}-{learner}")
    messages = Console(stderr=True, highlight=False)
    with messages.status("audit") as status:
        effort = FULL if full else QUICK
        findings = audit_engine(ways, effort, seed=seed, tell=lambda s: status.update(f"audit {s}"))
    values = described(ways, effort, seed=seed, evidence=findings.evidence)
    audit = findings.audit
    conclude(audit, {**audit.to_json(), "kind": "engine", **values}, folder, as_json=as_json)
    raise typer.Exit(audit.exit_code)


@app.command(epilog="Example: grandrounds audit study heart --data DATA --seeds 5")
def study(
    study: Annotated[
        str, typer.Argument(help="A study file, or the name of a study that comes with it.")
    ],
    data: Data = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="How often hospitals get canaries; more can show more.")
    ] = 1,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Test a study as it would run: lower bounds of epsilon against what it claims.

    Exits with 1 where a test failed. A passed audit proves nothing: nobody refuted the claim.
    """
    with importing():
        import torch
        from rich.console import Console

        from simulations.audit.output import audit_folder, conclude
        from simulations.audit.study import audit_study
        from simulations.settings import start_settings

    settings = start_settings(study, command="run", out=Path(), options={"data": data})
    folder = audit_folder(out, f"study-{settings.study.name}")
    torch.set_num_threads(1)  # small models lose more to waiting threads than they gain
    with Console(stderr=True, highlight=False).status("audit") as status:
        audit, values = audit_study(
            settings.study, seeds=seeds, tell=lambda s: status.update(f"audit {s}")
        )
    conclude(audit, values, folder, as_json=as_json)
    raise typer.Exit(audit.exit_code)


@app.command(epilog="Example: grandrounds audit ledger sites/cleveland")
def ledger(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A site's folder, or that of a run.", show_default=False
        ),
    ],
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Recompute epsilon from recorded events alone; hold it to what was claimed and released.

    Exits with 1 where a test failed, with 2 or 3 where there is nothing that could be judged.
    """
    with importing():
        from simulations.audit.ledger import audit_ledger
        from simulations.audit.output import audit_folder, conclude

    own = audit_folder(out, f"ledger-{folder.resolve().name}")
    audit, values = audit_ledger(folder)
    conclude(audit, values, own, as_json=as_json)
    raise typer.Exit(audit.exit_code)


app.command(epilog="Example: grandrounds audit attack heart --kind membership --data DATA")(attack)
