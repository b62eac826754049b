"""Differential privacy: mechanisms as data, their accounting, the engine that adds the noise."""
