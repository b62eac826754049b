"""What the agent does at its two doors, and the turn that each request takes."""

from __future__ import annotations

import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import grpc

from client.policy import Reason
from client.rpc.agent_pb2 import Chunk, Command, Result
from client.rpc.agent_pb2_grpc import AdministratorServicer, RelayServicer
from client.rpc.chunks import BEGUN, TooLargeError, join, split
from common.errors import GrandroundsError, WireError
from common.running.logs import bound
from common.wire import Envelope

Handler = Callable[[Envelope], Envelope]
Perform = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]

WAITING: Final = 2
"""Requests that may wait while one is computed."""

_LONGEST_KIND: Final = 32  # characters of what somebody asked for, in a line of the log

log = logging.getLogger(__name__)


class Turns:
    """One request at a time, a few waiting, and no more."""

    def __init__(self, waiting: int = WAITING) -> None:
        self._places = threading.BoundedSemaphore(1 + waiting)
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._idlers: set[Any] = set()
        self._stopping = False

    @contextmanager
    def place(self, context: Any) -> Iterator[bool]:
        """Give a request a place from its first byte to its answer's last, if one is free."""
        is_free = self._places.acquire(blocking=False)
        try:
            if is_free:
                self._enter(context)
            yield is_free
        finally:
            if is_free:
                with self._guard:
                    self._idlers.discard(context)
                self._places.release()

    @contextmanager
    def turn(self, context: Any) -> Iterator[bool]:
        """Wait until no other request is computed; false where the asker has gone meanwhile."""
        with self._turn:
            with self._guard:
                self._idlers.discard(context)
                goes_on = context.is_active() and not self._stopping
            yield goes_on

    def stop(self) -> None:
        """Send away whoever has not had a turn; nothing was computed or spent for them."""
        with self._guard:
            self._stopping = True
            idlers, self._idlers = self._idlers, set()
        for context in idlers:
            context.cancel()

    def is_idle(self, timeout_s: float) -> bool:
        """Wait until nothing is computed; false where something still is after `timeout_s`."""
        if self._turn.acquire(timeout=max(timeout_s, 0.0)):
            self._turn.release()
            return True
        return False

    def _enter(self, context: Any) -> None:
        with self._guard:
            self._idlers.add(context)
            is_late = self._stopping
        if is_late:
            context.cancel()


class RelayDoor(RelayServicer):
    """Answers the relay: it hands each request to the agent, and can do nothing else.

    Args:
        handler: The agent.
        turns: Who waits, and who is computed.
        limit: Most bytes of a request's payload.
        site: The site's name, for a refusal at the door.
    """

    def __init__(self, handler: Handler, turns: Turns, *, limit: int, site: str) -> None:
        self._handler = handler
        self._turns = turns
        self._limit = limit
        self._site = site

    def Ask(self, request_iterator: Iterator[Chunk], context: Any) -> Iterator[Chunk]:
        """Take one request in, have it answered, and give the answer."""
        # The place is kept until the answer is sent: a relay that does not read cannot make the
        # agent hold more answers than it has places.
        with self._turns.place(context) as is_free:
            answer = self._answer(request_iterator, context) if is_free else self._no(Reason.BUSY)
            if answer is not None:
                yield from split(answer)

    def _answer(self, chunks: Iterator[Chunk], context: Any) -> Envelope | None:
        """Return the agent's answer; None where the asker has gone before its turn."""
        try:
            request = join(chunks, limit=self._limit)
        except TooLargeError as error:
            return self._no(Reason.TOO_LARGE, error.message)
        except WireError as error:
            log.warning("%s", error.message)
            request = Envelope({})  # the agent refuses it, and notes that it did
        except grpc.RpcError:
            return None
        header = request.header
        with (
            bound(run=header.get("run"), round=header.get("round")),
            self._turns.turn(context) as goes_on,
        ):
            return self._compute(request) if goes_on and _told(context) else None

    def _no(self, reason: Reason, why: str = "") -> Envelope:
        """Refuse at the door: no patient, nor the ledger, has been touched."""
        log.warning("refused: %s%s", reason, f" ({why})" if why else "")
        return Envelope({"status": "refused", "reason": str(reason), "site": self._site})

    def _compute(self, request: Envelope) -> Envelope:
        kind, start = str(request.header.get("kind"))[:_LONGEST_KIND], time.monotonic()
        log.info("asked: %s, %d bytes", kind, len(request.payload))
        try:
            answer = self._handler(request)
        except Exception:  # what went wrong may depend on patients: it stays here
            log.exception("%s failed", kind)
            answer = self._no(Reason.FAILED)
        outcome = answer.header.get("reason") or answer.header.get("status")
        log.info("answered: %s, %s, %.1f s", kind, outcome, time.monotonic() - start)
        return answer


def _told(context: Any) -> bool:
    """Tell the asker that its request is being computed; false where nobody listens any more."""
    try:
        context.send_initial_metadata(BEGUN)
    except grpc.RpcError:
        return False
    return True


class AdministratorDoor(AdministratorServicer):
    """Answers the administrator.

    Args:
        perform: Does what a command says.
        after: Called after each command, which may have changed how the agent is.
    """

    def __init__(self, perform: Perform, *, after: Callable[[], None]) -> None:
        self._perform = perform
        self._after = after

    def Call(self, request: Command, context: Any) -> Result:
        """Do what a command says, and tell what came of it."""
        try:
            values = json.loads(request.json or "{}")
            if not isinstance(values, dict):
                raise ValueError("not a table")
        except (ValueError, RecursionError):
            return Result(
                error=f"the values of command {request.name!r} cannot be read",
                remedy="use the same version of grandrounds as the agent",
            )
        log.info("command: %s", request.name)
        try:
            return Result(json=json.dumps(self._perform(request.name, values)))
        except GrandroundsError as error:
            return Result(error=error.message, remedy=error.remedy)
        except Exception as error:  # the administrator may know what patients' data did
            log.exception("command %s failed", request.name)
            return Result(
                error=f"the agent could not do {request.name!r}: {error!r}",
                remedy="see the agent's log, DIR/run/agent.log",
            )
        finally:
            self._after()


class TokenGuard(grpc.ServerInterceptor):  # type: ignore[misc]
    """Turns away whoever does not bring the token; a TCP port has no owner to ask.

    Args:
        token: The secret.
    """

    def __init__(self, token: str) -> None:
        self._wanted = f"Bearer {token}".encode()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Let a call pass, or end it."""
        handler = continuation(details)
        given = dict(details.invocation_metadata).get("authorization", "")
        if handler is None or hmac.compare_digest(str(given).encode(), self._wanted):
            return handler
        make = _MAKERS[handler.request_streaming, handler.response_streaming]
        return make(_deny)


_MAKERS: Final = {
    (True, True): grpc.stream_stream_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (False, False): grpc.unary_unary_rpc_method_handler,
}


def _deny(request: Any, context: Any) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
