"""A hospital's processes: its agent, and the relay that calls the coordinator; kept up.

agent       reads patients, holds policy and ledger; the hospital's own installed program
supernode   asks the coordinator for messages (Flower)
superexec   has the relay run for each of them (Flower)
relays      from which each relay is forked; the coordinator's bundle may replace what it does

`python -P -m client.running.start DIR [OPTIONS as JSON]` keeps them up until it is told to stop.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from client.desk.kit import Kit, read_kit
from client.running.relay_home import RelayHome, prepare_relay
from common.errors import GrandroundsError, SiteError
from common.running import daemon
from common.running.logs import Format, bound, set_up
from common.running.processes import FLOWER_SWITCHES, command_line, module_line
from common.running.supervision import Child, Event, supervise, until_signal
from common.schema import read_toml

_START_S = 180.0
_AGENT_STOP_S = 60.0  # it finishes the round it computes
_PRIVATE = ("cohort.toml", "policy.toml", "ledger.sqlite", "keys/node.key", "admin", "run")
_LOOPBACK = "127.0.0.1"
_CONNECT_S = 2.0
_LONGEST_SOCKET = 100  # bytes; the system's limit is 108 on Linux and 104 elsewhere

_log = logging.getLogger("grandrounds.start")


@dataclass(frozen=True)
class StartOptions:
    """How a site starts.

    Attributes:
        superlink: Host and port of the coordinator; by default what the kit says.
        relay_user: The OS user that the relay runs as; None for this one.
        tcp: Loopback port of the agent, where there are no Unix sockets.
        log_format: How log lines are written.
    """

    superlink: str | None = None
    relay_user: str | None = None
    tcp: int | None = None
    log_format: Format = "text"


def pid_file(folder: Path) -> Path:
    """Return the file that the process that keeps a site up holds."""
    return folder / "run" / "site.pid"


def start_site(
    folder: Path,
    options: StartOptions | None = None,
    *,
    foreground: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    stop: threading.Event | None = None,
    agent: Sequence[str] | None = None,
) -> int:
    """Start a site's processes.

    Args:
        folder: The site's folder.
        options: How.
        foreground: Whether to stay until told to stop, by a signal or by `stop`.
        on_event: In the foreground, told of each start and end.
        stop: In the foreground, ends it; by default SIGTERM and SIGINT do.
        agent: The agent's command line; by default that of the installed agent.

    Returns:
        The process that keeps them up.

    Raises:
        GrandroundsError: something forbids the start, or the agent is not up within a minute.
    """
    options = options or StartOptions()
    folder = folder.resolve()
    kit = check_startable(folder, options)
    if not foreground:
        return _start_alone(folder, options)
    with daemon.hold(pid_file(folder)):
        found = _children(folder, kit, options, agent)
        if stop is not None:
            supervise(found, stop=stop, on_event=on_event)
        else:
            with until_signal() as signalled:
                supervise(found, stop=signalled, on_event=on_event)
    return os.getpid()


def stop_site(folder: Path) -> bool:
    """Stop a site's processes in order; return whether they ran.

    Raises:
        RunError: they do not stop in time, or belong to another user.
    """
    return daemon.stop(pid_file(folder), timeout_s=_AGENT_STOP_S + 30)


def check_startable(folder: Path, options: StartOptions) -> Kit:
    """Refuse to start what would not last; return the kit.

    Raises:
        GrandroundsError: folder, key or kit are no good, or the site runs already.
    """
    name, _ = _cohort(folder)
    kit = read_kit(folder)
    if kit.name != name:
        raise SiteError(
            f"the kit is for site {kit.name!r}, but cohort.toml names {name!r}",
            remedy="unpack the kit of this site, or have the coordinator enrol it by its name",
        )
    host, _, port = (options.superlink or kit.address).rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SiteError(
            f"superlink is {options.superlink or kit.address!r}: not HOST:PORT",
            remedy="give host and port, as in grandrounds.example.org:9092, without https://",
        )
    if options.tcp is None and len(os.fsencode(_socket(folder))) > _LONGEST_SOCKET:
        raise SiteError(
            f"the path {str(_socket(folder))!r} is too long for a Unix socket",
            remedy="use a folder with a shorter path, or --tcp PORT",
        )
    (folder / "run").mkdir(mode=0o700, exist_ok=True)
    if pid := daemon.holder(pid_file(folder)):
        raise SiteError(
            f"site {name!r} runs already, as process {pid}",
            remedy=f"use it as it is, or stop it with grandrounds site stop {folder}",
        )
    if options.tcp:
        _check_port(options.tcp)
    return kit


def _check_port(port: int) -> None:
    """Refuse a port that something listens on; better told here than in the agent's log."""
    with socket.socket() as probe:
        probe.settimeout(_CONNECT_S)
        if probe.connect_ex((_LOOPBACK, port)) == 0:
            raise SiteError(
                f"--tcp is {port}, which another program of this machine listens on",
                remedy="choose another port, or stop what uses it",
            )


def _cohort(folder: Path) -> tuple[str, list[Path]]:
    """The site's name and where its patients are; the whole of the folder is the agent's to read.

    What keeps the processes up must not itself hold the libraries that the agent computes with.
    """
    values = read_toml(folder / "cohort.toml", what="cohort")
    name, path = values.get("name"), values.get("path")
    if not isinstance(name, str) or not isinstance(path, str):
        raise SiteError(
            f"{str(folder / 'cohort.toml')!r} has no name or no path",
            remedy="mend it; grandrounds site check says what it must hold",
        )
    others = values.get("cohorts", {})
    tables = others.values() if isinstance(others, dict) else ()
    more = [table["path"] for table in tables if isinstance(table, dict) and "path" in table]
    return name, [folder / str(one) for one in (path, *more)]


def name_of(folder: Path) -> str:
    """Return the site's name, whatever its policy says.

    Raises:
        GrandroundsError: the folder is no site's, or its cohort.toml is malformed.
    """
    return _cohort(folder)[0]


def _start_alone(folder: Path, options: StartOptions) -> int:
    from client.ledger import Ledger
    from client.rpc.admin import is_running
    from client.site import load_site

    # Better told here than in the agent's log.
    Ledger(load_site(folder).ledger_path).close()
    return daemon.start(
        "client.running.start",
        str(folder),
        json.dumps(asdict(options)),
        log=folder / "run" / "site.log",
        env=os.environ,
        ready=lambda: daemon.holder(pid_file(folder)) is not None and is_running(folder),
        timeout_s=_START_S,
    )


def _children(
    folder: Path, kit: Kit, options: StartOptions, agent: Sequence[str] | None
) -> list[Child]:
    """Return the site's processes in the order in which they start."""
    home = prepare_relay(
        folder,
        kit,
        user=options.relay_user,
        node=_node(folder, options),
        private=[*_cohort(folder)[1], *(folder / name for name in _PRIVATE)],
    )
    port = _free_port()
    return [
        Child(
            "agent",
            agent or _agent_line(folder, options),
            {**os.environ, **FLOWER_SWITCHES, "PYTHONUNBUFFERED": "1"},
            folder,
            folder / "run" / "agent.log",
            grace_s=_AGENT_STOP_S,
        ),
        _relay_child(folder, home, "supernode", _node_line(home, options, kit, port)),
        _relay_child(folder, home, "superexec", _executor_line(home, port)),
        _relay_child(folder, home, "relays", _relays_line(home)),
    ]


def _relay_child(folder: Path, home: RelayHome, name: str, command: list[str]) -> Child:
    log = folder / "run" / f"{name}.log"
    return Child(name, command, home.env, home.folder / "empty", log, user=home.user)


def _agent_line(folder: Path, options: StartOptions) -> list[str]:
    more = ["--relay-user", options.relay_user] if options.relay_user else []
    if options.tcp is not None:
        more += ["--tcp", str(options.tcp)]
    more += ["--log-format", options.log_format]
    return module_line("client.rpc.service", str(folder), *more)


def _node_line(home: RelayHome, options: StartOptions, kit: Kit, port: int) -> list[str]:
    return [
        *command_line("client.running.supernode", "main", watch=True),
        *("--superlink", options.superlink or kit.address),
        *("--root-certificates", str(home.ca)),
        *("--auth-supernode-private-key", str(home.key)),
        *("--node-config", str(home.node)),
        *("--host", _LOOPBACK, "--port", str(port)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(home.secret)),
    ]


def _executor_line(home: RelayHome, port: int) -> list[str]:
    return [
        *command_line("flwr.supercore.cli", "flower_superexec", watch=True),
        *("--runtime-api-address", f"{_LOOPBACK}:{port}", "--insecure"),
        *("--superexec-auth-secret-file", str(home.secret)),
    ]


def _relays_line(home: RelayHome) -> list[str]:
    line = command_line("client.running.relay_host", "main", watch=True)
    return [*line, str(home.door), str(home.log)]


def _node(folder: Path, options: StartOptions) -> dict[str, str]:
    """What the relay is told: where the agent is."""
    if options.tcp is None:
        return {"transport": "agent", "agent": f"unix:{_socket(folder)}"}
    token = str(folder / "relay" / "token")
    return {"transport": "agent", "agent": f"{_LOOPBACK}:{options.tcp}", "token-file": token}


def _socket(folder: Path) -> Path:
    return folder / "relay" / "agent.sock"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def log_event(event: Event) -> None:
    """Write to the log what happened to a process."""
    with bound(process=event.child):
        _log.log(logging.INFO if event.is_expected else logging.WARNING, event.text())


def main(folder: str, options: str = "{}") -> None:
    """Keep a site's processes up until SIGTERM; options are those of `StartOptions`, as JSON."""
    given = StartOptions(**json.loads(options))
    set_up(given.log_format)
    start_site(Path(folder), given, foreground=True, on_event=log_event)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except GrandroundsError as error:
        sys.exit(daemon.complain(error))
