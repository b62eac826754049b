"""Processes that must not stay down, and what they log: for both sides."""
