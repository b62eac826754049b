"""How the site's own commands speak to a running agent: through the administrator's door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from client.rpc.agent_pb2 import Command
from client.rpc.agent_pb2_grpc import AdministratorStub
from client.rpc.doors import CHANNEL_OPTIONS, door, not_yours
from client.rpc.health import OVERALL, SERVICES
from common.errors import SiteError

_COMMAND_S = 600.0
_PROBE_S = 3.0
_OPTIONS = (*CHANNEL_OPTIONS, ("grpc.max_receive_message_length", 2**26))


def call(folder: Path, name: str, **values: Any) -> dict[str, Any]:
    """Have the running agent do a command.

    Args:
        folder: The site's folder.
        name: The command: approve, revoke, pause, resume, status, budget, withdraw, confirm.
        values: What the command takes; plain values.

    Returns:
        What the command answers.

    Raises:
        SiteError: no agent runs, this user may not command it, or the command failed.
    """
    with _channel(folder) as (channel, metadata):
        try:
            result = AdministratorStub(channel).Call(
                Command(name=name, json=json.dumps(values)), timeout=_COMMAND_S, metadata=metadata
            )
        except grpc.RpcError as error:
            raise _unreachable(folder, error) from None
    if result.error:
        raise SiteError(result.error, remedy=result.remedy)
    answer: dict[str, Any] = json.loads(result.json)
    return answer


def is_running(folder: Path) -> bool:
    """Tell whether an agent answers for the site; how it is, `health` says.

    Raises:
        SiteError: this user may not ask.
    """
    try:
        with _channel(folder) as (channel, metadata):
            _check(channel, OVERALL, metadata)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return False
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:  # alive, and very busy
            return True
        raise _unreachable(folder, error) from None
    return True


def health(folder: Path) -> dict[str, str]:
    """Return the state of the running agent: of `agent` itself and of each part of it.

    Returns:
        Part -> SERVING, NOT_SERVING, or SERVICE_UNKNOWN where the site has no such part.

    Raises:
        SiteError: no agent runs, or this user may not ask.
    """
    try:
        with _channel(folder) as (channel, metadata):
            parts = {"agent": OVERALL} | {name: name for name in SERVICES}
            return {word: _check(channel, part, metadata) for word, part in parts.items()}
    except grpc.RpcError as error:
        raise _unreachable(folder, error) from None


def watch(folder: Path, part: str = OVERALL) -> Iterator[str]:
    """Give the state of the agent, or of a part of it, now and whenever it changes.

    Args:
        folder: The site's folder.
        part: One of `health.SERVICES`; everything by default.

    Raises:
        SiteError: no agent runs, it stops, or this user may not ask.
    """
    try:
        with _channel(folder) as (channel, metadata):
            request = HealthCheckRequest(service=part)
            for response in HealthStub(channel).Watch(request, metadata=metadata):
                yield _word(response)
    except grpc.RpcError as error:
        raise _unreachable(folder, error) from None


def _check(channel: Any, part: str, metadata: tuple[tuple[str, str], ...]) -> str:
    request = HealthCheckRequest(service=part)
    try:
        return _word(HealthStub(channel).Check(request, timeout=_PROBE_S, metadata=metadata))
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return "SERVICE_UNKNOWN"
        raise


def _word(response: HealthCheckResponse) -> str:
    name: str = HealthCheckResponse.ServingStatus.Name(response.status)
    return name


@contextmanager
def _channel(folder: Path) -> Iterator[tuple[Any, tuple[tuple[str, str], ...]]]:
    target, token = door(folder, "admin").address()
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        yield channel, metadata


def _unreachable(folder: Path, error: Any) -> SiteError:
    if "ermission denied" in (error.details() or ""):
        return not_yours(folder / "admin")
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return SiteError(
            f"no agent runs for {str(folder)!r}", remedy="start it with grandrounds site start DIR"
        )
    return SiteError(
        f"the agent of {str(folder)!r} did not answer ({error.code().name})",
        remedy="see its log, DIR/run/agent.log",
    )
