"""The processes at a hospital: the agent, the SuperNode, and the relay's own folder."""
