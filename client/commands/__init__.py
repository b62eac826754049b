"""The `site` commands."""
