"""The agent's two gRPC servers, for any handler: started, healthy, stopped in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from client.rpc.agent_pb2_grpc import (
    add_AdministratorServicer_to_server,
    add_RelayServicer_to_server,
)
from client.rpc.chunks import MESSAGE
from client.rpc.doors import Door, door, new_token, user_id
from client.rpc.health import Check, Monitor
from client.rpc.servicers import (
    WAITING,
    AdministratorDoor,
    Handler,
    Perform,
    RelayDoor,
    TokenGuard,
    Turns,
)

MAX_MESSAGE: Final = 512_000_000
"""Most bytes of a request's payload, unless the site's policy allows fewer."""

_MOMENT_S = 1.0
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # or a second agent would share the port and take half the requests
    ("grpc.max_receive_message_length", MESSAGE),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How an agent listens.

    Attributes:
        tcp: Loopback port for the relay, where there are no Unix sockets; 0 for any free one.
        relay_user: The OS user who may ask for rounds; None for the site's own user.
        max_message: Most bytes of a request's payload.
        waiting: Requests that may wait while one is computed.
        site: The site's name, for refusals at the door.
        health_s: Seconds between two looks at the agent's health.
    """

    tcp: int | None = None
    relay_user: str | None = None
    max_message: int = MAX_MESSAGE
    waiting: int = WAITING
    site: str = ""
    health_s: float = 5.0


@dataclass(frozen=True)
class Servers:
    """Both servers, running.

    Attributes:
        relay: The gRPC target of the relay's door.
        admin: That of the administrator's.
        monitor: Looks at the agent's health.
    """

    relay: str
    admin: str
    monitor: Monitor
    _doors: tuple[Door, Door]
    _servers: tuple[Any, Any]
    _turns: Turns

    def stop(self, grace_s: float) -> bool:
        """Take nothing new, let what is being computed finish, and close both doors.

        Args:
            grace_s: Seconds that it may take.

        Returns:
            Whether it has finished; if not, it still goes on in its thread.
        """
        end = time.monotonic() + grace_s
        self.monitor.stop()
        relay, admin = self._servers
        relay_ended = relay.stop(grace_s)
        self._turns.stop()
        is_idle = self._turns.is_idle(grace_s)
        relay_ended.wait(max(end - time.monotonic(), _MOMENT_S))
        admin.stop(_MOMENT_S).wait(2 * _MOMENT_S)
        for place in self._doors:
            place.clear()
        return is_idle


def start_servers(
    handler: Handler,
    folder: Path,
    *,
    perform: Perform,
    checks: Mapping[str, Check],
    options: Options | None = None,
) -> Servers:
    """Open both doors of a site's agent.

    Guarantees
        Nobody but the site's own user, and `relay_user` at the relay's door, can connect at any
        moment; on TCP, nobody without the token. Of requests, no more than 1 + `waiting` are in
        memory, each of at most `max_message` bytes.

    Args:
        handler: Answers the relay's requests, one at a time.
        folder: The site's folder.
        perform: Does the administrator's commands.
        checks: Part -> its health check.
        options: How to listen.

    Raises:
        SiteError: an agent already runs there, or it cannot listen as it was told.
    """
    options = options or Options()
    user = None if options.relay_user is None else user_id(options.relay_user)
    doors = door(folder, "relay", user=user), door(folder, "admin")
    for place in doors:
        place.prepare()
    turns, health = Turns(options.waiting), HealthServicer()
    monitor = Monitor(health, checks, every_s=options.health_s)
    servers = _listening(doors, options)
    relay, admin = servers
    asked = RelayDoor(handler, turns, limit=options.max_message, site=options.site)
    add_RelayServicer_to_server(asked, relay)
    commanded = AdministratorDoor(perform, after=monitor.look_soon)
    add_AdministratorServicer_to_server(commanded, admin)
    add_HealthServicer_to_server(health, admin)
    relay.start()
    admin.start()
    monitor.start()
    targets = [place.address()[0] for place in doors]
    return Servers(targets[0], targets[1], monitor, doors, (relay, admin), turns)


def _listening(doors: tuple[Door, Door], options: Options) -> tuple[Any, Any]:
    """Return a server for each door, bound and not yet started."""
    ports = (None, None) if options.tcp is None else (options.tcp, 0)
    servers: list[Any] = []
    try:
        for place, port in zip(doors, ports, strict=True):
            token = None if port is None else new_token()
            servers.append(_server(token, threads=options.waiting + 6))
            if port is None or token is None:
                place.bind_socket(servers[-1])
            else:
                place.bind_port(servers[-1], port, token)
    except BaseException:
        for server in servers:
            server.stop(None)
        for place in doors:
            place.clear()
        raise
    relay, admin = servers
    return relay, admin


def _server(token: str | None, *, threads: int) -> Any:
    """Return a gRPC server that turns away what it has no thread for."""
    return grpc.server(
        ThreadPoolExecutor(threads),
        options=_OPTIONS,
        interceptors=() if token is None else (TokenGuard(token),),
        maximum_concurrent_rpcs=8 * threads,
    )
