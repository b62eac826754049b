"""The statistics of a privacy audit: samples and counts in, outcomes and bounds out."""
