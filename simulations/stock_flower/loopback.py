"""Stock Flower on loopback: a SuperLink, SuperNodes and one run, all with Flower's defaults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import tomli_w

from common.errors import EngineError
from common.running.processes import command_line, end_group, flower_environment, last_lines
from server.house.bundle import Scalar
from server.house.superlink import SuperLink, hand_over, write_connection
from simulations.deployed import free_port
from simulations.rounds_timed import Round

APP = Path(__file__).parent

_HOST = "127.0.0.1"
_START_S = 120.0
_POLL_S = 1.0  # often enough, and it costs the SuperLink little


def stock_rounds(
    scratch: Path,
    data: Sequence[Path],
    *,
    rounds: int,
    local_steps: int,
    learning_rate: float,
    round_limit_s: float = 120.0,
) -> list[Round]:
    """Run the stock app over one SuperNode for each hospital's file; return its rounds.

    Nothing is encrypted and nobody is asked who they are, as Flower does by default. Telemetry,
    update checks and the installation of dependencies are off: they would need the internet.

    Raises:
        EngineError: Flower does not start, or the run fails or takes too long.
    """
    scratch = scratch.resolve()
    for name in ("home", "empty", "bin"):
        (scratch / name).mkdir(parents=True)
    out = scratch / "rounds.json"
    config: dict[str, Scalar] = {
        "num-server-rounds": rounds,
        "num-nodes": len(data),
        "local-steps": local_steps,
        "learning-rate": learning_rate,
        "out": str(out),
    }
    children: list[subprocess.Popen[bytes]] = []
    try:
        link = _start(scratch, data, children)
        run = hand_over(APP, config, scratch=scratch, environment=_environment(scratch))
        limit_s = _START_S + rounds * round_limit_s
        _await(lambda: link.run_status(run).status == "finished", scratch, children, limit_s)
        if not out.is_file():
            status = link.run_status(run)
            raise _failure(f"ended without a result: {status.sub_status} {status.details}", scratch)
    finally:
        end_group(children, orderly=True)
    return rounds_of(json.loads(out.read_text(encoding="utf-8")), sites=len(data))


def rounds_of(told: Mapping[str, list[float]], *, sites: int) -> list[Round]:
    """Return the rounds of which the ServerApp told the ends and the slowest site's computing.

    >>> rounds_of({"ends": [3.0, 5.0, 9.0], "compute": [0.5, 1.0], "sites": [4, 4]}, sites=4)
    [Round(seconds=2.0, compute=0.5), Round(seconds=4.0, compute=1.0)]

    Raises:
        EngineError: A site did not answer a round.
    """
    ends, compute = told["ends"], told["compute"]
    if set(told["sites"]) != {sites} or len(compute) != len(ends) - 1:
        raise EngineError(
            f"not all of {sites} SuperNodes answered every round of stock Flower: {told['sites']}",
            remedy="try again on a machine that is less busy",
        )
    lasted = [end - start for start, end in pairwise(ends)]
    return [Round(s, c) for s, c in zip(lasted, compute, strict=True)]


def _start(
    scratch: Path, data: Sequence[Path], children: list[subprocess.Popen[bytes]]
) -> SuperLink:
    """Start a SuperLink and its SuperNodes, in one process group; return the former."""

    def spawn(module: str, function: str, *options: str) -> None:
        with (scratch / "flower.log").open("ab") as log:
            child = subprocess.Popen(
                [*command_line(module, function, watch=True), "--insecure", *options],
                cwd=scratch / "empty",
                env=_environment(scratch),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=children[0].pid if children else 0,
            )
        children.append(child)

    port = str(free_port())
    link = SuperLink(f"http://{_HOST}:{port}")
    write_connection(scratch / "home", link)
    spawn("flwr.superlink.cli", "flower_superlink", "--host", _HOST, "--port", port)
    _await(link.answers, scratch, children, _START_S)
    for number, path in enumerate(data):
        config = scratch / f"node-{number}.toml"
        config.write_text(tomli_w.dumps({"data": str(path.resolve())}), encoding="utf-8")
        at = ("--superlink", link.address, "--host", _HOST, "--port", str(free_port()))
        spawn("flwr.supernode.cli", "flower_supernode", *at, "--node-config", str(config))
    return link


def _environment(scratch: Path) -> dict[str, str]:
    """Flower's own pace, and its own commands, which it looks up on PATH."""
    found = flower_environment(scratch)
    del found["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}"
    return {**found, "PATH": path, "OMP_NUM_THREADS": "1"}


def _await(
    condition: Callable[[], bool],
    scratch: Path,
    children: Sequence[subprocess.Popen[bytes]],
    limit_s: float,
) -> None:
    """Wait for a condition while all children live."""
    end = time.monotonic() + limit_s
    while not condition():
        if any(child.poll() is not None for child in children):
            raise _failure("ended unexpectedly", scratch)
        if time.monotonic() > end:
            raise _failure(f"was not done within {limit_s:.0f} s", scratch)
        time.sleep(_POLL_S)


def _failure(what: str, scratch: Path) -> EngineError:
    log = scratch / "flower.log"
    return EngineError(f"stock Flower {what}:\n{last_lines(log)}", remedy=f"see {log}")
