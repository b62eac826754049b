"""A SuperLink as its client sees it: where it is, whether it answers, an app handed over, a run."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from common.errors import EngineError
from common.processes import command_line
from server.bundle import Scalar

if TYPE_CHECKING:
    from flwr.proto.run_pb2 import RunStatus

_CONNECTION = "grandrounds"
_SUBMIT_S = 60.0
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def write_connection(home: Path, address: str) -> None:
    """Write Flower's settings, so that `flwr run` finds the SuperLink at `address`."""
    here = {"default": _CONNECTION, _CONNECTION: {"address": address, "insecure": True}}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": here}), encoding="utf-8")


def answers(url: str) -> bool:
    """Say whether the SuperLink is up."""
    try:
        with _NO_PROXY.open(f"{url}/health", timeout=2):
            return True
    except OSError:
        return False


def submit(
    app_dir: Path,
    run_config: Mapping[str, Scalar],
    *,
    num_nodes: int,
    cpus: int,
    scratch: Path,
    environment: Mapping[str, str],
) -> int:
    """Hand the app to the SuperLink with `flwr run`; return the run's id.

    Args:
        app_dir: The app's directory.
        run_config: Overrides of the app's run configuration, by key.
        num_nodes: How many nodes are simulated.
        cpus: How many of them may work at a time.
        scratch: Takes the run configuration; its empty folder is the working directory.
        environment: Of the command; names the settings that `write_connection` wrote.

    Returns:
        The run's id.

    Raises:
        EngineError: Flower refuses the app or does not answer.
    """
    # A file, because the command line's own syntax knows no quotes within quotes.
    config = scratch / "run-config.toml"
    config.write_text(tomli_w.dumps(dict(run_config)), encoding="utf-8")
    federation = f"num-supernodes={num_nodes} client-resources-num-cpus=1"
    if "RAY_ADDRESS" not in os.environ:  # a cluster that is up has its own number
        federation += f" init-args-num-cpus={min(cpus, num_nodes)}"
    options = ["--federation-config", federation, "--run-config", str(config)]
    command = [*command_line("flwr.cli.app", "app", watch=False), "run", str(app_dir.resolve())]
    try:
        done = subprocess.run(
            [*command, _CONNECTION, *options, "--format", "json"],
            cwd=scratch / "empty",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SUBMIT_S,
            check=False,
        )
        said = f"{done.stdout.strip()} {done.stderr.strip()}"
        with suppress(ValueError, KeyError, TypeError):
            return int(json.loads(done.stdout[done.stdout.index("{") :])["run-id"])
    except subprocess.TimeoutExpired:
        said = f"no answer within {_SUBMIT_S:.0f} s"
    raise EngineError(f"flwr run refused the app: {said}", remedy=f"check the app in {app_dir}")


def run_status(url: str, run_id: int) -> RunStatus:
    """Ask the SuperLink's Control API how a run is doing (`flwr list` takes a second).

    Raises:
        OSError: The SuperLink does not answer.
    """
    # Imported here: whoever runs nothing on Flower need not wait for it.
    from flwr.proto.control_pb2 import ListRunsRequest, ListRunsResponse

    request = urllib.request.Request(
        f"{url}/v1/control/list-runs",
        data=ListRunsRequest(run_id=run_id).SerializeToString(),
        headers={"content-type": "application/protobuf", "accept": "application/protobuf"},
    )
    with _NO_PROXY.open(request, timeout=30) as reply:
        runs = ListRunsResponse.FromString(reply.read()).run_dict
    status: RunStatus = runs[run_id].status
    return status
