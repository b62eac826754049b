"""What hospitals and coordinator agree on: studies, models, learners, privacy, messages."""
