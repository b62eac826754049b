"""Flower's ServerApp: federated averaging, which notes when each round ended."""

from __future__ import annotations

import json
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from .task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured rounds; write to `out` when each ended and how long the sites computed."""
    config, ends = context.run_config, []

    def note(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        ends.append(time.time())
        return None

    nodes = int(config["num-nodes"])
    strategy = FedAvg(
        fraction_evaluate=0.0,  # a round is one exchange with every site
        min_train_nodes=nodes,
        min_available_nodes=nodes,
        train_metrics_aggr_fn=slowest,
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=note,
    )
    compute = [metrics["seconds"] for _, metrics in sorted(result.train_metrics_clientapp.items())]
    replies = [metrics["sites"] for _, metrics in sorted(result.train_metrics_clientapp.items())]
    told = {"ends": ends, "compute": compute, "sites": replies}
    Path(str(config["out"])).write_text(json.dumps(told), encoding="utf-8")


def slowest(records: list[RecordDict], weighting: str) -> MetricRecord:
    """Return how long the slowest site computed, and how many sites answered."""
    seconds = [float(r["metrics"]["seconds"]) for r in records]  # type: ignore[arg-type]
    return MetricRecord({"seconds": max(seconds), "sites": len(records)})
