"""Meta-analysis: estimates of many studies, or hospitals, pooled with their differences shown."""
