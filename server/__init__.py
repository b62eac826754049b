"""The coordinator's side: the round loop, aggregation, checkpoints and the run store."""
