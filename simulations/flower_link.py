"""How a simulation is handed to a SuperLink: how many nodes, and how many work at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from server.house.bundle import Scalar
from server.house.superlink import hand_over


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
    federation = f"num-supernodes={num_nodes} client-resources-num-cpus=1"
    if "RAY_ADDRESS" not in os.environ:  # a cluster that is up has its own number
        federation += f" init-args-num-cpus={min(cpus, num_nodes)}"
    return hand_over(
        app_dir,
        run_config,
        scratch=scratch,
        environment=environment,
        options=["--federation-config", federation],
    )
