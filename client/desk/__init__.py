"""What the hospital's people decide and keep: approvals, keys, budget, models, the report."""
