"""The study report and the model card: pure functions from metrics to text."""
