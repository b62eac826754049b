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

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import tomllib
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import tomli_w

from common.errors import EngineError

if TYPE_CHECKING:
    from flwr.proto.run_pb2 import RunStatus

Scalar: TypeAlias = str | int | float | bool

# What a run may override, with the defaults of pyproject.toml; Flower refuses any other key.
APP_CONFIG: Mapping[str, Scalar] = {
    "run-dir": "",
    "plan": "",
    "seed": 0, "nodes": 0,
    "job": "main",
    "sites-dir": "",
}

_HOST = "127.0.0.1"
_CONNECTION = "grandrounds"
_START_S = 60.0
_STOP_S = 3.0
_POLL_S = 0.2
_TAIL_LINES = 40
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# Calls a Flower command's function in a fresh Python. It ends when the program that started it
# dies, even by kill -9: a SuperLink on its own would live on.
_LAUNCH = """
import importlib, os, signal, sys, threading, time
module, function, watch = sys.argv[1:4]
sys.argv[:4] = [function.replace("_", "-")]
def guard(parent=os.getppid()):
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
if watch == "watch":
    threading.Thread(target=guard, daemon=True).start()
getattr(importlib.import_module(module), function)()
"""


def write_app(
    folder: Path,
    *,
    packages: Sequence[str] = ("server", "client", "common"),
    config: Mapping[str, Scalar] = APP_CONFIG,
) -> Path:
    """Write a Flower App directory that holds the Python files of the installed packages.

    Args:
        folder: Where the app is written; made if missing, and the packages' folders in it replaced.
        packages: Top-level packages to copy, from a wheel as from a clone.
        config: Keys and defaults of the app's run configuration.

    Returns:
        The folder.

    Raises:
        EngineError: A package is not installed.

    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     sorted(path.name for path in write_app(Path(scratch), packages=["json"]).iterdir())
    ['json', 'pyproject.toml']
    """
    for package in packages:
        source = _package_folder(package)
        shutil.rmtree(folder / package, ignore_errors=True)
        for file in sorted(source.rglob("*.py")):
            target = folder / package / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    app = {
        "publisher": "grandrounds",
        "fab-include": [f"{package}/**/*.py" for package in packages],
        "components": {"serverapp": "server.app:app", "clientapp": "client.app:app"},
        "config": dict(config),
    }
    document = {"project": _project_table(), "tool": {"flwr": {"app": app}}}
    (folder / "pyproject.toml").write_text(tomli_w.dumps(document), encoding="utf-8")
    return folder


def run_flower(
    *,
    app_dir: Path,
    run_config: Mapping[str, Scalar],
    num_nodes: int,
    scratch: Path,
    timeout_s: float | None = None,
    on_log: Callable[[str], None] | None = None,
    cpus: int | None = None,
) -> None:
    """Run one Flower App to its end in a runtime of its own; see `FlowerRuntime.run`."""
    with FlowerRuntime(scratch, cpus=cpus) as runtime:
        runtime.run(
            app_dir=app_dir,
            run_config=run_config,
            num_nodes=num_nodes,
            timeout_s=timeout_s,
            on_log=on_log,
        )


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
        self._url = ""
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
        self._write_shim("flwr-simulation", "flwr.simulation.app", "flwr_simulation")
        port = _free_port()
        address, self._url = f"{_HOST}:{port}", f"http://{_HOST}:{port}"
        here = {"default": _CONNECTION, _CONNECTION: {"address": address, "insecure": True}}
        (self.home / "config.toml").write_text(tomli_w.dumps({"superlink": here}), encoding="utf-8")
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
        _check_run(app_dir, run_config, num_nodes)
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        self.start()
        log = _Tail(self.log_path, on_log)
        self._busy = True
        try:
            self._wait(self._submit(app_dir, run_config, num_nodes), log, deadline)
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
            if children and self._busy and _signal_group(children[0].pid, signal.SIGTERM):
                end = time.monotonic() + _STOP_S
                while _signal_group(children[0].pid, 0) and time.monotonic() < end:
                    for child in children:
                        child.poll()
                    time.sleep(0.05)
        finally:
            if children:
                _signal_group(children[0].pid, signal.SIGKILL)
            for child in children:
                child.wait()
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
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
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
                [*_command(module, function, watch=True), "--insecure", *options],
                cwd=self._scratch / "empty",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=self.process_group or 0,
            )
        self._children.append(child)

    def _write_shim(self, name: str, module: str, function: str) -> None:
        """Make the command that the SuperExec looks up on PATH; it would hide what it prints."""
        shim = self._scratch / "bin" / name
        command = shlex.join(_command(module, function, watch=True))
        log = shlex.quote(str(self.log_path))
        shim.write_text(f'#!/bin/sh\nexec {command} "$@" >>{log} 2>&1\n', encoding="utf-8")
        shim.chmod(0o755)

    def _await_health(self) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            self._check_alive()
            with suppress(OSError), _NO_PROXY.open(f"{self._url}/health", timeout=2):
                return
            time.sleep(0.05)
        raise EngineError(
            f"Flower's SuperLink did not answer within {_START_S:.0f} s",
            remedy=f"see {self.log_path}; is the machine overloaded?",
        )

    def _check_alive(self) -> None:
        if any(child.poll() is not None for child in self._children):
            raise EngineError(
                f"Flower's runtime ended unexpectedly:\n{_last_lines(self.log_path)}",
                remedy=f"see {self.log_path}",
            )

    def _submit(self, app_dir: Path, run_config: Mapping[str, Scalar], num_nodes: int) -> int:
        """Hand the app to the SuperLink with `flwr run`; return the run's id."""
        # A file, because the command line's own syntax knows no quotes within quotes.
        config = self._scratch / "run-config.toml"
        config.write_text(tomli_w.dumps(dict(run_config)), encoding="utf-8")
        federation = f"num-supernodes={num_nodes} client-resources-num-cpus=1"
        if "RAY_ADDRESS" not in os.environ:  # a cluster that is up has its own number
            federation += f" init-args-num-cpus={min(self._cpus, num_nodes)}"
        options = ["--federation-config", federation, "--run-config", str(config)]
        command = [*_command("flwr.cli.app", "app", watch=False), "run", str(app_dir.resolve())]
        try:
            done = subprocess.run(
                [*command, _CONNECTION, *options, "--format", "json"],
                cwd=self._scratch / "empty",
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_START_S,
                check=False,
            )
            said = f"{done.stdout.strip()} {done.stderr.strip()}"
            with suppress(ValueError, KeyError, TypeError):
                return int(json.loads(done.stdout[done.stdout.index("{") :])["run-id"])
        except subprocess.TimeoutExpired:
            said = f"no answer within {_START_S:.0f} s"
        raise EngineError(f"flwr run refused the app: {said}", remedy=f"check the app in {app_dir}")

    def _wait(self, run_id: int, log: _Tail, deadline: float | None) -> None:
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
        """Ask the SuperLink's Control API how a run is doing (`flwr list` takes a second)."""
        # Imported here: whoever runs nothing on Flower need not wait for it.
        from flwr.proto.control_pb2 import ListRunsRequest, ListRunsResponse

        request = urllib.request.Request(
            f"{self._url}/v1/control/list-runs",
            data=ListRunsRequest(run_id=run_id).SerializeToString(),
            headers={"content-type": "application/protobuf", "accept": "application/protobuf"},
        )
        try:
            with _NO_PROXY.open(request, timeout=30) as reply:
                runs = ListRunsResponse.FromString(reply.read()).run_dict
            status: RunStatus = runs[run_id].status
            return status
        except OSError as error:
            self._check_alive()
            raise EngineError(
                f"Flower's SuperLink does not answer: {error}", remedy=f"see {self.log_path}"
            ) from error


class _AppFailed(EngineError):
    """The app failed, not the runtime."""


class _Tail:
    """Reads a growing log from its present end, line by line, and keeps the last lines."""

    def __init__(self, path: Path, on_line: Callable[[str], None] | None) -> None:
        self._path = path
        self._offset = path.stat().st_size
        self._on_line = on_line
        self._partial = b""
        self._last: deque[str] = deque(maxlen=_TAIL_LINES)

    def pump(self) -> None:
        """Take what was written since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        self._offset += len(new)
        *lines, self._partial = (self._partial + new).split(b"\n")
        for raw in lines:
            line = _ANSI.sub("", raw.decode(errors="replace")).rstrip()
            self._last.append(line)
            if self._on_line is not None:
                self._on_line(line)

    def text(self) -> str:
        """The last lines, indented."""
        self.pump()
        return textwrap.indent("\n".join(self._last), "  ")


def _command(module: str, function: str, *, watch: bool) -> list[str]:
    """The command line that calls a Flower command's function with this very Python."""
    # -P keeps the working directory off sys.path, which Ray hands on to its workers.
    return [sys.executable, "-P", "-c", _LAUNCH, module, function, "watch" if watch else "-"]


def _check_run(app_dir: Path, run_config: Mapping[str, Scalar], num_nodes: int) -> None:
    """Refuse early what Flower would refuse late, or not at all."""
    if num_nodes < 1:
        raise EngineError(f"num_nodes is {num_nodes}", remedy="simulate at least one hospital")
    try:
        text = (app_dir / "pyproject.toml").read_text(encoding="utf-8")
        declared = tomllib.loads(text)["tool"]["flwr"]["app"].get("config", {})
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(
            f"{app_dir} is no Flower App: {error!r}", remedy="make one with write_app"
        ) from error
    if unknown := sorted(set(run_config) - set(declared)):
        raise EngineError(
            f"the run configuration has keys that the app does not declare: {unknown}",
            remedy=f"use some of {sorted(declared)}, or declare them in [tool.flwr.app.config]",
        )


def _package_folder(package: str) -> Path:
    """The folder of an installed package, found without running it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise EngineError(
            f"the package {package!r} is not installed", remedy="install grandrounds in this Python"
        )
    return Path(spec.origin).parent


def _project_table() -> dict[str, str]:
    """What Flower wants to know of a project; the bundle's hash, not this, says what ran."""
    try:
        version = metadata.version("grandrounds")
    except metadata.PackageNotFoundError:
        version = "0.0.0"
    about = {"description": "grandrounds as a Flower App", "license": "Apache-2.0"}
    return {"name": "grandrounds", "version": version} | about


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; return whether the group still has a member."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _last_lines(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return textwrap.indent(_ANSI.sub("", "\n".join(lines)), "  ")
