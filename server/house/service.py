"""The coordinator's processes: SuperLink, SuperExec and, where one stands between, the filter.

`python -P -m server.house.service DIR` keeps them up until it is told to stop.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from common.errors import GrandroundsError, RunError
from common.running import daemon
from common.running.logs import Format, bound, set_up
from common.running.processes import command_line, flower_environment, write_shim
from common.running.supervision import Child, Event, supervise, until_signal
from server.house import superlink
from server.house.certificates import check_valid, read_pair
from server.house.enrolment import register_waiting
from server.house.home import LOOPBACK, Home, load_home, prepare_scratch
from server.house.nginx import nginx_child, nginx_program, write_nginx

_START_S = 180.0
_STOP_S = 60.0
_POLL_S = 0.1

_log = logging.getLogger("grandrounds.server")


def check_startable(home: Home) -> None:
    """Refuse to start what would not last.

    Raises:
        RunError: a certificate or key is no good, another process runs, or a port is taken.
    """
    check_valid(home.folder / "server.crt", home.ca)
    read_pair(home.folder / "server.crt", home.folder / "server.key")
    if not home.secret.is_file():
        raise RunError(
            f"{str(home.secret)!r} is missing",
            remedy="restore it from your backup, or write 32 random bytes to it",
        )
    if pid := daemon.holder(home.pid_file):
        raise RunError(
            f"the coordinator runs already, as process {pid}",
            remedy=f"use it as it is, or stop it with grandrounds server stop {home.folder}",
        )
    _check_port(home, LOOPBACK, "superlink_port", home.config.superlink_port)
    if home.config.filtered and nginx_program():
        _check_port(home, "", "port", home.config.port)


def _check_port(home: Home, host: str, field: str, port: int) -> None:
    """Refuse a port that something else listens on, or that this user may not use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RunError(
                f"{field} is {port}, which cannot be used: {error.strerror}",
                remedy=f"end what listens there, or set {field} in "
                f"{str(home.folder / 'server.toml')!r} to another",
            ) from None


def children(home: Home) -> list[Child]:
    """Return the coordinator's processes in the order in which they start."""
    at, secret = f"{LOOPBACK}:{home.config.superlink_port}", str(home.secret)
    link = [
        *command_line("flwr.superlink.cli", "flower_superlink", watch=True),
        *("--host", LOOPBACK, "--port", str(home.config.superlink_port)),
        *("--ssl-ca-certfile", str(home.ca)),
        *("--ssl-certfile", str(home.folder / "server.crt")),
        *("--ssl-keyfile", str(home.folder / "server.key")),
        *("--database", str(home.folder / "state.db"), "--enable-supernode-auth"),
        *("--isolation", "process", "--superexec-auth-secret-file", secret),
    ]
    executor = [
        *command_line("flwr.supercore.cli", "flower_superexec", watch=True),
        *("--runtime-api-address", at, "--root-certificates", str(home.ca)),
        *("--superexec-auth-secret-file", secret),
    ]
    env = flower_environment(home.scratch)
    # At the usual level the SuperLink reports every request, and there are a few a second.
    quiet = env | {"FLWR_LOG_LEVEL": "WARNING"}
    empty, logs = home.scratch / "empty", home.scratch
    found = [
        Child("superlink", link, quiet, empty, logs / "superlink.log"),
        Child("superexec", executor, env, empty, logs / "superexec.log"),
    ]
    filter_ = nginx_child(home, env) if home.config.filtered else None
    return [*found, *([filter_] if filter_ else [])]


def serve(home: Home, *, stop: threading.Event, on_event: Callable[[Event], None]) -> None:
    """Keep the coordinator's processes up until told to stop.

    Raises:
        RunError: something forbids the start.
    """
    check_startable(home)
    prepare_scratch(home)
    # The SuperExec looks this command up on PATH.
    write_shim(
        home.scratch / "bin" / "flwr-serverapp",
        module="flwr.superlink.cli",
        function="flwr_serverapp",
        log=home.scratch / "serverapp.log",
    )
    write_nginx(home)
    with daemon.hold(home.pid_file):
        greeter = threading.Thread(target=_greet, args=(home, stop), daemon=True)
        greeter.start()
        supervise(children(home), stop=stop, on_event=on_event)


def start(home: Home, *, style: Format = "text") -> int:
    """Start the coordinator on its own; return the process that keeps it up.

    Raises:
        RunError: something forbids the start, or it is not up within a minute.
    """
    check_startable(home)
    prepare_scratch(home)
    link = superlink.of(home)
    return daemon.start(
        "server.house.service",
        str(home.folder),
        style,
        log=home.scratch / "server.log",
        env=flower_environment(home.scratch),
        ready=lambda: daemon.holder(home.pid_file) is not None and link.answers(),
        timeout_s=_START_S,
    )


def stop(home: Home) -> bool:
    """Stop the coordinator; return whether it ran."""
    return daemon.stop(home.pid_file, timeout_s=_STOP_S)


def filter_note(home: Home) -> str:
    """Return what a coordinator must know of the filter; empty where none is needed or it runs."""
    if not home.config.filtered or nginx_program():
        return ""
    return (
        f"nginx is not installed: until it is, and the server started again, no hospital reaches "
        f"{home.config.address} (or run it elsewhere with {home.folder / 'nginx.conf'})"
    )


def _greet(home: Home, stop: threading.Event) -> None:
    """Let in the hospitals that were enrolled while the SuperLink was down, once it answers."""
    link = superlink.of(home)
    while not stop.wait(_POLL_S):
        if not link.answers():
            continue
        try:
            names = register_waiting(home)
        except (OSError, GrandroundsError) as error:
            _log.warning("cannot register the hospitals yet: %s", error)
            stop.wait(1.0)
            continue
        _log.info("ready at %s; registered: %s", home.config.address, ", ".join(names) or "none")
        return


def log_event(event: Event) -> None:
    """Write to the log what happened to a process."""
    with bound(process=event.child):
        _log.log(logging.INFO if event.is_expected else logging.WARNING, event.text())


def main(folder: str, style: Format = "text") -> None:
    """Run the coordinator's processes for a folder until SIGTERM or SIGINT."""
    set_up(style)
    with until_signal() as stop:
        serve(load_home(Path(folder)), stop=stop, on_event=log_event)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])  # type: ignore[arg-type]
    except GrandroundsError as error:
        sys.exit(daemon.complain(error))
