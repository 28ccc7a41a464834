"""Capture drivers: how changes are known and where the frozen view comes from; see `port`."""
