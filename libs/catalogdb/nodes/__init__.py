"""Nodes: which credential of each counts, and where each was last heard."""
