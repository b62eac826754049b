"""The relay: Flower's ClientApp. It forwards one message to the agent and the agent's answer back.

Flower lets the coordinator's bundle replace this code, so it is untrusted by design: it imports no
tensors, opens no data and holds no key to either.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.transport import connect
from common.wire import pack, unpack

app = ClientApp()


@app.query()
@app.train()
@app.evaluate()
def forward(message: Message, context: Context) -> Message:
    """Hand the request to the agent and return what it answers."""
    answer = connect(context)(unpack(message.content))
    return Message(pack(answer), reply_to=message)
