"""The relay: Flower's ClientApp. It forwards one message to the agent and the agent's answer back.

Flower lets the coordinator's bundle replace this code, so it is untrusted by design: it imports no
tensors, opens no data and holds no key to either.
"""

from __future__ import annotations

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from client.transport import connect
from common.errors import GrandroundsError
from common.wire import pack, unpack

app = ClientApp()

_RAISED = 2  # Flower's own code for a ClientApp that raised


@app.query()
@app.train()
@app.evaluate()
def forward(message: Message, context: Context) -> Message:
    """Hand the request to the agent and return what it answers."""
    try:
        answer = connect(context)(unpack(message.content))
    except GrandroundsError as error:
        # Flower would send a whole traceback, with the site's paths in it.
        return Message(Error(code=_RAISED, reason=error.message), reply_to=message)
    return Message(pack(answer), reply_to=message)
