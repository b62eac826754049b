"""A site's patients: what a study expects of them, how they are read, and how they are parted."""
