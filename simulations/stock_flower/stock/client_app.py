"""Flower's ClientApp: trains on a hospital's patients and sends the weights."""

from __future__ import annotations

import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .task import Net, load_data, train

app = ClientApp()


@app.train()
def fit(message: Message, context: Context) -> Message:
    """Train for the configured number of local steps."""
    net, batches = Net(), load_data(Path(str(context.node_config["data"])))
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())  # type: ignore[union-attr]
    config = context.run_config
    start = time.perf_counter()  # what torch loads at its first step counts as computing
    loss = train(
        net,
        batches,
        steps=int(config["local-steps"]),
        learning_rate=float(config["learning-rate"]),
    )
    seconds = time.perf_counter() - start
    patients = len(batches.dataset)  # type: ignore[arg-type]
    metrics = MetricRecord({"loss": loss, "seconds": seconds, "num-examples": patients})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
