"""An in-process Grid: Flower's real ServerApp and ClientApp, one after another in this process.

A breakpoint inside a client works, and a run costs its arithmetic. All private imports of Flower
that this needs are in this file.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RUN_ID = 1

ClientCallable = Callable[[Message, Context], Message]
Scalar = str | int | float | bool


class InProcessGrid(Grid):
    """Runs each message's client when its reply is asked for.

    Args:
        client_app: The ClientApp, or any callable of its signature (a test injects faults so).
        nodes: Node id -> the node's configuration.
        run_config: What every context carries.
    """

    def __init__(
        self,
        client_app: ClientCallable,
        *,
        nodes: Mapping[int, Mapping[str, Scalar]],
        run_config: Mapping[str, Scalar],
    ) -> None:
        # Building a Message reads these from the process: the server is its sender.
        TaskIdentity.task_id, TaskIdentity.run_id = 1, RUN_ID
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        self._client_app = client_app
        self._contexts = {
            node: _context(node, config=dict(config), run_config=dict(run_config))
            for node, config in nodes.items()
        }
        self._waiting: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Run:
        """There is no run information in process."""
        raise NotImplementedError("an in-process grid has no run information")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message from the server (kept for Flower's interface)."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> list[int]:
        """Return every node's id."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take messages; each client runs when its reply is pulled."""
        ids = []
        for message in messages:
            if message.metadata.dst_node_id not in self._contexts:
                continue  # as Flower does: no id, and no word about it
            identifier = str(uuid.uuid4())
            message.metadata.__dict__["_message_id"] = identifier
            self._waiting[identifier] = message
            ids.append(identifier)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Run the clients of these messages and return their replies."""
        return [self._run(self._waiting.pop(i)) for i in message_ids if i in self._waiting]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push messages and return their replies."""
        return self.pull_messages(self.push_messages(messages))

    def _run(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            # A client owns its copy, as it would behind a network.
            message.content = deepcopy(message.content)
            reply = self._client_app(message, context)
        except Exception as error:  # Flower answers a client's exception with an error reply
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            reply = Message(Error(code=code, reason=repr(error)), reply_to=message)
        reply.metadata.__dict__["_message_id"] = str(uuid.uuid4())
        return reply


def server_context(run_config: Mapping[str, Scalar]) -> Context:
    """Return the context of the ServerApp."""
    return _context(SUPERLINK_NODE_ID, config={}, run_config=dict(run_config))


def _context(node: int, *, config: dict[str, Scalar], run_config: dict[str, Scalar]) -> Context:
    return Context(
        run_id=RUN_ID, node_id=node, node_config=config, state=RecordDict(), run_config=run_config
    )
