"""The agent: one process on each node that has volumes to protect."""
