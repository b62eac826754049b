"""Run a Flower App on this machine with `flwr run`, whose simulation works on a Ray cluster.

A `FlowerRuntime` owns a Flower SuperLink and a SuperExec, which form one process group with all
that they start, Ray included; closing it ends the group. Nothing depends on PATH, on the user's
Flower settings or on the working directory: in a simulation the working directory would shadow the
app's bundle, so every child works in an empty one.

POSIX only (process groups). Set RAY_ADDRESS to use a Ray cluster that is already up. The SuperLink
listens on the loopback interface without a password: every user of this machine could hand it an
app, which would run as you.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from common.errors import EngineError
from common.running.processes import (
    FLOWER_SWITCHES,
    Tail,
    command_line,
    end_group,
    last_lines,
    write_shim,
)
from server.house.bundle import Scalar, check_run
from server.house.superlink import SuperLink, write_connection
from simulations.deployed import free_port
from simulations.flower_link import submit

if TYPE_CHECKING:
    from flwr.proto.run_pb2 import RunStatus

_HOST = "127.0.0.1"
_START_S = 60.0
_POLL_S = 0.2


class FlowerRuntime:
    """A local Flower runtime that carries one run after another; use it with `with`.

    The first run starts it, in about a second, unless `start` was called before.

    Args:
        scratch: A folder for Flower's home, its logs and the empty working directory.
        cpus: How many clients may work at a time; by default one for each of the machine's CPUs.
    """

    def __init__(self, scratch: Path, *, cpus: int | None = None) -> None:
        self.home = scratch.resolve() / "home"
        self.log_path = scratch.resolve() / "flower.log"
        self._scratch = scratch.resolve()
        self._cpus = cpus or os.cpu_count() or 1
        self._children: list[subprocess.Popen[bytes]] = []
        self._busy = False
        self._link = SuperLink("")
        self._ray_dir: Path | None = None

    @property
    def process_group(self) -> int | None:
        """The group that every process of this runtime belongs to; None when it is not running."""
        return self._children[0].pid if self._children else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the runtime if it is not up, and wait until it answers.

        Raises:
            EngineError: Flower does not start.
        """
        if self._children:
            return
        for name in ("home", "empty", "bin"):
            (self._scratch / name).mkdir(parents=True, exist_ok=True)
        # Ray puts Unix sockets under this folder, whose paths may have about 100 characters.
        self._ray_dir = Path(tempfile.mkdtemp(prefix="gr-", dir="/tmp"))
        # The SuperExec looks this command up on PATH, and would hide what it prints.
        write_shim(
            self._scratch / "bin" / "flwr-simulation",
            module="flwr.simulation.app",
            function="flwr_simulation",
            log=self.log_path,
        )
        port = free_port()
        address = f"{_HOST}:{port}"
        self._link = SuperLink(f"http://{address}")
        write_connection(self.home, self._link)
        serve = ("--simulation", "--isolation", "process", "--host", _HOST, "--port", str(port))
        try:
            self._spawn("flwr.superlink.cli", "flower_superlink", *serve, quiet=True)
            self._spawn("flwr.supercore.cli", "flower_superexec", "--runtime-api-address", address)
            self._await_health()
        except BaseException:
            self.close()
            raise

    def run(
        self,
        *,
        app_dir: Path,
        run_config: Mapping[str, Scalar],
        num_nodes: int,
        timeout_s: float | None = None,
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        """Run a Flower App to its end; one run at a time.

        Args:
            app_dir: The app's directory, as `write_app` makes it.
            run_config: Overrides of the app's run configuration, by key.
            num_nodes: How many nodes (hospitals) are simulated.
            timeout_s: Seconds after which the run is given up; None waits for ever.
            on_log: Called with each line that the run prints; by default nothing is shown.

        Raises:
            EngineError: The app is refused, fails or takes too long. The runtime can be used
                again: after a failure as it is, after a timeout or an interrupt by a new start.
        """
        check_run(app_dir, run_config, num_nodes)
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        self.start()
        log = Tail(self.log_path, on_log)
        self._busy = True
        try:
            run_id = submit(
                app_dir,
                run_config,
                num_nodes=num_nodes,
                cpus=self._cpus,
                scratch=self._scratch,
                environment=self._environment(),
            )
            self._wait(run_id, log, deadline)
        except _AppFailed:
            self._busy = False
            raise
        except BaseException:
            self.close()
            raise
        self._busy = False

    def close(self) -> None:
        """End every process of the runtime; closing twice does no harm."""
        children, self._children = self._children, []
        try:
            # Between runs there is nothing to put in order.
            end_group(children, orderly=self._busy)
        finally:
            self._busy = False
            if self._ray_dir is not None:
                shutil.rmtree(self._ray_dir, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        """The environment of every child: our own commands first, no network, no telemetry."""
        exempt = [os.environ.get("no_proxy"), os.environ.get("NO_PROXY"), _HOST]
        direct = ",".join(filter(None, exempt))
        return os.environ | {
            "PATH": f"{self._scratch / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "no_proxy": direct,
            "NO_PROXY": direct,
            "FLWR_HOME": str(self.home),
            **FLOWER_SWITCHES,
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            "RAY_TMPDIR": str(self._ray_dir),
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def _spawn(self, module: str, function: str, *options: str, quiet: bool = False) -> None:
        """Start a long-lived Flower command in the runtime's process group."""
        # The SuperLink reports every request, our polling included, at the usual level.
        environment = self._environment() | ({"FLWR_LOG_LEVEL": "WARNING"} if quiet else {})
        with self.log_path.open("ab") as log:
            child = subprocess.Popen(
                [*command_line(module, function, watch=True), "--insecure", *options],
                cwd=self._scratch / "empty",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=self.process_group or 0,
            )
        self._children.append(child)

    def _await_health(self) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            self._check_alive()
            if self._link.answers():
                return
            time.sleep(0.05)
        raise EngineError(
            f"Flower's SuperLink did not answer within {_START_S:.0f} s",
            remedy=f"see {self.log_path}; is the machine overloaded?",
        )

    def _check_alive(self) -> None:
        if any(child.poll() is not None for child in self._children):
            raise EngineError(
                f"Flower's runtime ended unexpectedly:\n{last_lines(self.log_path)}",
                remedy=f"see {self.log_path}",
            )

    def _wait(self, run_id: int, log: Tail, deadline: float | None) -> None:
        """Wait until a run has finished, and raise unless it completed."""
        while (status := self._status(run_id)).status != "finished":
            log.pump()
            self._check_alive()
            if deadline is not None and time.monotonic() > deadline:
                raise EngineError(
                    f"the Flower run took longer than its time limit:\n{log.text()}",
                    remedy="allow more time, or use the in-process engine",
                )
            time.sleep(_POLL_S)
        log.pump()
        if status.sub_status != "completed":
            reason = status.details or status.sub_status
            raise _AppFailed(
                f"the Flower run failed: {reason}\n{log.text()}",
                remedy=f"see {self.log_path}",
            )

    def _status(self, run_id: int) -> RunStatus:
        """How a run is doing."""
        try:
            return self._link.run_status(run_id)
        except OSError as error:
            self._check_alive()
            raise EngineError(
                f"Flower's SuperLink does not answer: {error}", remedy=f"see {self.log_path}"
            ) from error


class _AppFailed(EngineError):
    """The app failed, not the runtime."""
