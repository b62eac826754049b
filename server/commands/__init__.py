"""The `server` commands, and `report`."""
