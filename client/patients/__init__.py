"""What the hospital alone does with its patients: check, withdraw, predict, judge."""
