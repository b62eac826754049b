"""The agent's gRPC service: its two doors, what travels through them, and who calls them."""
