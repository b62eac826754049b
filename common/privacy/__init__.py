"""Differential privacy: mechanisms as data, their accounting, and the engine that adds the noise."""
