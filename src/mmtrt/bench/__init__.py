"""Latency: what runs, on which clock, with which percentiles; several files in turn in one process."""
