"""Public data sets cut into hospitals: one recipe a file."""
