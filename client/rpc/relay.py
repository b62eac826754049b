"""How the relay reaches the site's agent: over its Unix socket, or loopback TCP with a token.

This runs where the coordinator's bundle may replace it, so it holds nothing worth having: it can
ask for what the approved study and the budget already allow. What it raises travels to the
coordinator, and names no path of the site.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from flwr.app import Context

from client.rpc.agent_pb2_grpc import RelayStub
from client.rpc.chunks import BEGUN, join, split
from client.rpc.doors import CHANNEL_OPTIONS, listens
from client.transport import Transport
from common.errors import SiteError, WireError
from common.wire import Envelope

WAIT_S = 60.0
"""Seconds to wait for an agent that does not answer: its supervisor may be starting it again."""

ROUND_S = 3600.0
"""Seconds that an answer may take."""

# How often an agent may begin to compute a request: one that dies of it would die of it again, at
# the price of another reserve.
ASKS = 2

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

log = logging.getLogger(__name__)


def connect(context: Context) -> Transport:
    """Return the way to the agent that the node's configuration names.

    Its `agent` is 'unix:/path/of/agent.sock' or '127.0.0.1:port', the latter with `token-file`.

    Raises:
        SiteError: neither is named, or the agent would be on another machine.
    """
    agent = str(context.node_config.get("agent", ""))
    if not re.fullmatch(r"unix:/.+|(127\.0\.0\.1|localhost):\d{1,5}", agent):
        raise SiteError(
            "the node's configuration names no agent of this machine",
            remedy="start the node with --node-config 'agent=\"unix:/path/of/agent.sock\"'",
        )
    token_file = context.node_config.get("token-file")

    def ask(request: Envelope) -> Envelope:
        return ask_agent(agent, request, token=_token(token_file))

    return ask


def ask_agent(target: str, request: Envelope, *, token: str | None = None) -> Envelope:
    """Ask an agent, and wait for its answer and, for a while, for the agent itself.

    To ask again is safe: an answer that was lost is given from the ledger.

    Args:
        target: The gRPC target of its relay's door.
        request: What to ask.
        token: What opens a TCP port.

    Raises:
        WireError: no answer came.
    """
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    begun, pause_s, end = 0, _FIRST_PAUSE_S, time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if listens(target):
            try:
                return _ask(target, request, metadata)
            except _Lost as lost:
                if lost.has_begun:
                    begun, pause_s, end = begun + 1, _FIRST_PAUSE_S, time.monotonic() + WAIT_S
                if begun == ASKS:
                    raise _failed(lost.code) from None
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    raise WireError(
        f"the site's agent does not answer (tried for {WAIT_S:.0f} s)",
        remedy="the hospital starts it again and sees its log",
    )


class _Lost(Exception):
    """The agent went away before it answered."""

    def __init__(self, code: Any, *, has_begun: bool) -> None:
        super().__init__(code)
        self.code = code
        self.has_begun = has_begun


def _ask(target: str, request: Envelope, metadata: Sequence[tuple[str, str]]) -> Envelope:
    with grpc.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        call = RelayStub(channel).Ask(split(request), timeout=ROUND_S, metadata=metadata)
        try:
            return join(call)
        except grpc.RpcError as error:
            code, has_begun = error.code(), BEGUN[0] in map(tuple, call.initial_metadata() or ())
            log.warning("the agent did not answer: %s, %s", code, error.details())
        if code not in _LOST:
            raise _failed(code)
        raise _Lost(code, has_begun=has_begun)


def _failed(code: Any) -> WireError:
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return WireError(
            "the site's agent does not know this relay's token",
            remedy="the hospital starts the node with the token-file that its agent wrote",
        )
    return WireError(
        f"the site's agent did not answer ({code.name})", remedy="the hospital sees its agent's log"
    )


def _token(file: object) -> str | None:
    if not file:
        return None
    try:
        return Path(str(file)).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        log.exception("the token cannot be read")
        raise SiteError(
            "the relay cannot read its token-file",
            remedy="start the agent with --tcp and with --relay-user naming this user",
        ) from None
