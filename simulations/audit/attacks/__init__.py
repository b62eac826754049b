"""What a coordinator could do with the deltas that it receives, tried on a simulation."""
